"""Units, as they stand behind a number: which are the same, which are different, and which are part of the number."""

from __future__ import annotations

import re

MULTIPLES = {  # words that multiply the number
    "dozen": 12,
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
# The first name of each line is the canonical one. "pound" is both a weight and a currency; we do not decide which.
_ALIASES = """
mm millimeter millimetre
cm centimeter centimetre
dm decimeter decimetre
m meter metre
km kilometer kilometre
in inch inches
ft foot feet
yd yard
mi mile
mg milligram
g gram gm
kg kilogram kilo
oz ounce
lb pound £ \\pounds
ton tonne
ml milliliter millilitre
l liter litre
gal gallon
pt pint
cup
acre
hectare ha
s second sec
min minute mins
h hour hr hrs
day
week wk
month
year yr
am a.m. a.m
pm p.m. p.m
cent ¢ penny pennies
dollar $ \\$ usd buck
euro € eur \\euro
yen ¥ jpy
rupee ₹ rs inr
degree deg
celsius
fahrenheit
radian rad
hz hertz
n newton
j joule
w watt
v volt
"""
_NAMES = {alias: line.split()[0] for line in _ALIASES.strip().splitlines() for alias in line.split()}
_COMPOUND = {"mph": "mi/h", "kmh": "km/h", "kph": "km/h", "kmph": "km/h", "fps": "ft/s"}
_SAY_NOTHING = frozenset(["unit", "units", "of", "the", "a", "an", "total", "altogether", "exactly", "each"])
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_POWERS_AFTER = {"squared": 2, "cubed": 3}
_TOKEN = re.compile(r"\^\s*\{?\s*(-?[0-9])\s*\}?|([ap]\.\s?m\b\.?)|(\\?[^\W\d_]+|\\?[$¢€£¥₹])|(/)")

Unit = frozenset[str]


def is_unit(word: str) -> bool:
    word = word.lower().rstrip(".")
    return _name(word) is not None or word in _COMPOUND or word in _POWERS or word in _POWERS_AFTER or word == "units"


def unit_of(phrase: str) -> Unit:
    """The words of a phrase in one spelling: `square feet`, `sq ft` and `ft^2` are {ft^2}; `units` says nothing."""
    names: list[str] = []
    exponents: list[int] = []
    power, sign = 1, 1
    phrase = re.sub(r"\bin\b(?=.*\b[a-z]{3})", " ", phrase.lower())  # not inches: `in total`
    phrase = re.sub(r"\b(?:mph|kmh|kph|kmph|fps)\b", lambda match: _COMPOUND[match.group()], phrase)
    for exponent, time, word, slash in _TOKEN.findall(phrase):
        word = time.replace(" ", "").rstrip(".") + "." if time else word
        if exponent and exponents:
            exponents[-1] *= int(exponent)
        elif slash or word == "per":
            sign = -1
        elif word in _POWERS:
            power = _POWERS[word]
        elif word in _POWERS_AFTER and exponents:
            exponents[-1] *= _POWERS_AFTER[word]
        elif word and word not in _SAY_NOTHING and word.removesuffix("s") not in MULTIPLES:
            names.append(_name(word) or word.removesuffix("s"))
            exponents.append(sign * power)
            power = 1
    return frozenset(
        name if exponent == 1 else f"{name}^{exponent}" for name, exponent in zip(names, exponents, strict=True)
    )


def may_be_same(one: Unit, other: Unit) -> bool:
    """False for two different units. No unit goes with any; of two units that are words of a problem, `red apples` and
    `apples`, one word in common is enough."""
    if not one or not other:
        return True
    known_one, known_other = ({name for name in unit if name.split("^")[0] in _NAMES} for unit in (one, other))
    return known_one == known_other if known_one and known_other else bool(one & other)


def _name(word: str) -> str | None:
    return _NAMES.get(word) or _NAMES.get(word.removesuffix("s"))
