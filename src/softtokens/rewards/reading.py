r"""Reads an answer's text: what Math-Verify would drop or reorder is taken out of it, or written so that it cannot.

Math-Verify drops units and bases (`5 \text{ km}` is 5, `40_7` is 40), takes a word for a product of its letters, and
reads `1e-05` as e - 5. The rules are listed in docs/metrics.md. Text only: nothing here knows mathematics.
"""

from __future__ import annotations

import dataclasses
import re

from softtokens.rewards.exact import normalize
from softtokens.rewards.units import MULTIPLES, Unit, is_unit, may_be_same, unit_of

_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "π": r"\pi ", "°": r"^\circ ", "²": "^2", "³": "^3", "\u00a0": " "}
    | dict.fromkeys("\u2009\u202f\u2002\u2003", " ")
)  # fmt: skip
_FONTS = re.compile(r"\\(?:text(?:rm|bf|it|normal)|math(?:rm|bf|it|sf)|mbox|operatorname)\s*\{")
_ONE_LETTER = re.compile(r"\\text\s*\{\s*([ei])\s*\}")
_WHOLE_IN_TEXT = re.compile(r"^\s*\\text\s*\{\s*([-+0-9][^{}]*)\}\s*$")
_SCALE = re.compile(r"\^\s*\{?\s*\\circ\s*\}?\s*(?:\\text\s*\{\s*)?([CF])\b(?:\s*\})?")
_RATIO = re.compile(r"([0-9]+)\s+(?:\\text\s*\{\s*)?to(?:\s*\})?\s+([0-9]+)")
_INNER_UNIT = re.compile(
    r"(?<=[0-9}])\s*(?:\\text\s*\{([^{}]*)\}|([a-z]{2,}))(\s*\^\s*(?:\{\s*-?[0-9]\s*\}|[0-9]))?(?=\s*[,;)\]])"
)
_SPACES = re.compile(r"\\(?:quad|qquad|displaystyle|[;: ])(?![A-Za-z])|\\!|~")
_PERCENT = re.compile(r"(?<=[0-9}])\s*(?:\\text\s*\{\s*)?(?:\\?%|per ?cent\b|percentage\b|pct\b)(?:\s*\})?")
_MODULUS = re.compile(r"\\pmod\s*\{?\s*(\w+)\s*\}?|\\text\s*\{\s*\(\s*mod\s*(\w+)\s*\)\s*\}|\(\s*\\?b?mod\s*(\w+)\s*\)")
_BASE = re.compile(r"(?<![\w\\.}])([0-9]+(?:\.[0-9]+)?)_(?:\s*\{\s*([^{}]*|\\text\s*\{[^{}]*\})\s*\}|([0-9]))")
_BASE_IN_WORDS = re.compile(r"(?<=[0-9])\s*(?:\\text\s*\{\s*)?\(?\s*base[- ]([0-9]+|[a-z]+)\s*\)?(?:\s*\})?")
_DIGITS = dict(zip("two three four five six seven eight nine ten eleven twelve".split(), range(2, 13), strict=True))

_EXPONENT = re.compile(r"(?<![\w.\\])([0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE]([+-]?[0-9]{1,3})(?![\w.])")
_MIXED = re.compile(r"(?<![\w.,/}^_{)] )(?<![\w.,/}^_{)])([0-9]{1,9})\s+([0-9]{1,9})\s*/\s*([0-9]{1,9})(?![\w./^!])")
_THOUSANDS = re.compile(r"(?<![\w.])[0-9]{1,3}(?:(?:\\,|\{,\}|,\s*\\!|\\!,|,\\,)\s*[0-9]{3})+(?![0-9])")
_SPACED_THOUSANDS = re.compile(r"([+-]?[1-9][0-9]{0,2}(?: [0-9]{3})+)(\.[0-9]+)?")
_REPEATING = re.compile(r"(?<![\w.])([0-9]*)\.([0-9]{0,20})\\(?:overline|bar)\s*(?:\{([0-9]{1,20})\}|([0-9]))")

_TOKEN = re.compile(r"\\text\s*\{[^{}]*\}|\\[A-Za-z]+|\\.|[ap]\.\s?m\b\.?|[A-Za-z][A-Za-z.'’-]*|\s+|\^\s*(?:\{[^{}]*\}|[0-9]|\\circ)|.", re.S)
_CURRENCY = re.compile(r"^([-+]?)\s*(?:US|\\text\s*\{\s*US\s*\})?(\\text\s*\{\s*\\\$\s*\}|\\\$|[$€£¥₹]|Rs\.?|\\pounds|\\euro(?![a-z]))\s*(?=[-+.\d\\(])")
_ORDINAL = re.compile(r"([0-9]+)\s*(?:\^\s*)?\{?\s*(?:\\text\s*\{\s*)?(?:st|nd|rd|th)(?:\s*\})?\s*\}?")
_ENDS_A_VALUE = re.compile(r"[0-9}\])!%°]$|\\(?:pi|infty|circ)$")
_CLAIMS = frozenset("or and not than is are times over plus minus divided factorial if where when for all any both".split())
_MATHEMATICS = frozenset(
    "sin cos tan cot sec csc log ln exp sqrt frac pi theta alpha beta gamma delta lambda mu sigma omega phi max min gcd lcm mod "
    "inf infty infinity sinh cosh tanh arcsin arccos arctan det".split()
)
_LAST_LETTER = re.compile(r"(.*[0-9}])(\s*)([mgshlL])")
_NO_VARIABLES = re.compile(r"\\text\s*\{[^{}]*\}|\\[A-Za-z]+")
_GEOMETRY = re.compile(r"\\(angle|measuredangle|overline|overleftrightarrow|triangle)\s*(?:\{\s*([A-Z]{2,3})\s*\}|([A-Z]{2,3})(?![A-Za-z]))")
_ISOLATED = re.compile(
    r"\\text\s*\{[^{}]*\}|(?:(?<![^\s,;(\[$])|(?<=\\\{))[A-Za-z]{2,}(?:[ '’-]+[A-Za-z]+)*(?![^\s,;)\]$\\])(?!\\(?!\}))"
)


@dataclasses.dataclass(frozen=True)
class Reading:
    """An answer. `text` is what Math-Verify gets; the rest is what the answer says besides."""

    text: str
    unit: Unit = frozenset()
    bases: tuple[str, ...] = ()
    modulus: str | None = None
    variables: frozenset[str] = frozenset()
    """The single letters of a formula: Math-Verify reads R as r."""
    last_letter: tuple[str, Unit, bool] | None = None
    """Of `5 m`, which may be five metres: the text without the letter, the unit, and whether a space is between."""

    def may_equal(self, other: Reading) -> bool:
        """False where what stands besides the texts says that the two are different. What one side leaves out goes with
        anything."""
        return (
            may_be_same(self.unit, other.unit)
            and (not self.bases or not other.bases or self.bases == other.bases)
            and (self.modulus is None or other.modulus is None or self.modulus == other.modulus)
            and (self.variables == other.variables or _lower(self.variables) != _lower(other.variables))
        )

    def with_unit_of(self, other: Reading, *, is_given: bool) -> Reading:
        """This answer to compare with the other: a last letter that may be a unit is one where the other has a unit. In
        the given answer also where a number is expected; an expected `5 m` may be five times m, which is not 5."""
        if self.last_letter is None or self.unit:
            return self
        text, unit, spaced = self.last_letter
        if not (other.unit or is_given and spaced and not other.variables):
            return self
        return dataclasses.replace(self, text=text, unit=unit, variables=frozenset(), last_letter=None)


def _lower(letters: frozenset[str]) -> frozenset[str]:
    return frozenset(letter.lower() for letter in letters)


def read(text: str) -> Reading:
    text = _tidy(text)
    modulus = _MODULUS.search(text)
    if modulus and modulus.start() > 0:
        text = text[: modulus.start()] + text[modulus.end() :]
    bases: list[str] = []

    def drop_base(match: re.Match[str]) -> str:
        bases.append(_number_word(match[2] or match[3]))
        return match[1]

    text = _BASE.sub(drop_base, text)
    for match in _BASE_IN_WORDS.finditer(text):
        bases.append(_number_word(match[1]))
    text = _BASE_IN_WORDS.sub("", text)
    text, currency = _without_currency(text.strip())
    text, unit = _without_units(text)
    text = re.sub(r"^([0-9]{1,2}):00$", r"\1", text)  # the time; a ratio to nothing it cannot be
    text = _wrap_words(_plain_numbers(text))
    modulo = next(filter(None, modulus.groups())) if modulus else None
    letter = _LAST_LETTER.fullmatch(text)
    last_letter = (letter[1], unit_of(letter[3]), bool(letter[2])) if letter else None
    return Reading(text, currency | unit, tuple(bases), modulo, _variables(text), last_letter)


def _variables(text: str) -> frozenset[str]:
    letters = re.findall(r"[A-Za-z]", _NO_VARIABLES.sub("", text))
    return frozenset(letters) if len(text) > 1 else frozenset()


def _tidy(text: str) -> str:
    text = text.translate(_SIGNS)
    text = _THOUSANDS.sub(lambda match: re.sub(r"[^0-9]", "", match[0]), text)
    text = _ONE_LETTER.sub(r"\1", _FONTS.sub(r"\\text{", text))
    text = re.sub(r"\\text\s*\{([^{}A-Za-z]*)\}", r"\1", text)  # a number in another font is a number
    text = _WHOLE_IN_TEXT.sub(r"\1", _SCALE.sub(_temperature, text))
    text = _PERCENT.sub(r"\\%", _SPACES.sub(" ", text).replace(r"\,", " "))
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    return text.removesuffix(".").rstrip()


def _temperature(match: re.Match[str]) -> str:
    return r"\text{ celsius}" if match[1] == "C" else r"\text{ fahrenheit}"


def _number_word(word: str) -> str:
    word = re.sub(r"\\text|base|[^0-9A-Za-z]", "", word).lower()
    return str(_DIGITS.get(word, word))


def _without_currency(text: str) -> tuple[str, Unit]:
    match = _CURRENCY.match(text)
    if match is None:
        return text, frozenset()
    return match[1] + text[match.end() :], unit_of(re.search(r"\\?[$€£¥₹]|Rs|\\pounds|\\euro", match[2])[0])


def _without_units(text: str) -> tuple[str, Unit]:
    """The value, and the words behind it: those in \\text{...}, and plain ones that cannot be a product of variables."""
    ordinal = _ORDINAL.fullmatch(text)
    if ordinal:
        return ordinal[1], frozenset()
    inner: list[str] = []

    def drop_inner(match: re.Match[str]) -> str:
        phrase = match[1] or match[2] or ""
        words = re.findall(r"[A-Za-z.]+", phrase)
        if not words or not all(map(is_unit, words)):
            return match[0]
        inner.append(phrase + (match[3] or ""))
        return ""

    text = _INNER_UNIT.sub(drop_inner, text)
    tokens = _TOKEN.findall(text)
    start = len(tokens)
    while start and _is_of_a_unit(tokens, start - 1):
        start -= 1
    while start < len(tokens) and (tokens[start].isspace() or tokens[start][0] in "^/" and not _is_degree(tokens[start])):
        start += 1  # a unit begins with a word; an exponent belongs to the value
    value, tail = "".join(tokens[:start]).rstrip(), tokens[start:]
    words = [word.lower() for word in re.findall(r"[A-Za-z.]+", re.sub(r"\\text", "", "".join(tail)))]
    spaced = "".join(tokens[:start]) != value
    plain = [token for token in tail if token[0].isalpha()]
    compound = spaced and ("/" in tail or any(len(word) > 1 and is_unit(word) for word in plain))
    if (
        not tail
        or not value
        or _CLAIMS & set(words)
        or words and words[0] in ("squared", "cubed")
        or not (_ENDS_A_VALUE.search(value) or not plain and re.search(r"[A-Za-z]$", value))
        or not all(_is_plain_unit(word, spaced, compound) for word in plain)
    ):
        return text, unit_of(" ".join(inner))
    phrase = " ".join(token.replace(r"\text", " ").strip("{} ") if token.startswith(r"\text") else token for token in tail)
    phrase = phrase.replace(r"\circ", " degree ")
    multiple = 1
    for word in words:
        factor = MULTIPLES.get(word) or MULTIPLES.get(word.removesuffix("s"))
        if factor:
            multiple *= factor
            phrase = re.sub(rf"\b{word}\b", " ", phrase, flags=re.I)
    if multiple > 1:
        value = rf"{normalize(value)} \times {multiple}"
    return value, unit_of(" ".join([phrase, *inner])) - {"th"}


def _is_of_a_unit(tokens: list[str], at: int) -> bool:
    token = tokens[at]
    if token[0].isspace() or token.startswith("^") or token == "/":
        return True
    if token.startswith("\\"):
        return token.startswith(r"\text") or token in (r"\degree", r"\pounds", r"\euro", r"\$") and at > 0
    return token[0].isalpha() and token.lower() not in _MATHEMATICS or token in "€£¥₹¢" or token == "$"


def _is_degree(token: str) -> bool:
    return r"\circ" in token


def _is_plain_unit(word: str, spaced: bool, compound: bool) -> bool:
    """Whether a word outside of \\text is a unit or a noun: `5km`, `18 dollars`, `5 sq m`; not `5 n`, `2xy`, `3 abc`."""
    if is_unit(word):
        return len(word) > 1 or compound
    return spaced and len(word) > 2 and not is_product(word) or word.lower() in ("of", "to")


def _plain_numbers(text: str) -> str:
    text = _EXPONENT.sub(_without_exponent, text)
    text = _REPEATING.sub(_as_fraction, text)
    ratio = _RATIO.fullmatch(text)
    if ratio:
        return f"{ratio[1]}:{ratio[2]}"
    match = _SPACED_THOUSANDS.fullmatch(text)
    if match:
        return match[1].replace(" ", "") + (match[2] or "")
    return _MIXED.sub(_mixed, text)


def _without_exponent(match: re.Match[str]) -> str:
    """`2.5e-05` as 0.000025: shifting the point is exact."""
    whole, _, fraction = match[1].partition(".")
    digits, point = whole + fraction, len(whole) + int(match[2])
    if point <= 0:
        return "0." + "0" * -point + digits
    digits = digits.ljust(point, "0")
    return f"{digits[:point]}.{digits[point:]}" if digits[point:] else digits


def _as_fraction(match: re.Match[str]) -> str:
    whole, fixed, cycle = match[1] or "0", match[2], match[3] or match[4]
    numerator = int(whole + fixed + cycle) - int(whole + fixed)
    return rf"\frac{{{numerator}}}{{{(10 ** len(cycle) - 1) * 10 ** len(fixed)}}}"


def _mixed(match: re.Match[str]) -> str:
    whole, top, bottom = map(int, match.groups())
    return rf"\frac{{{whole * bottom + top}}}{{{bottom}}}" if bottom else match[0]


def _wrap_words(text: str) -> str:
    """Words that stand alone, or in a list, are put into \\text: Math-Verify compares those letter by letter."""
    text = _GEOMETRY.sub(_from_either_end, text)
    return _ISOLATED.sub(lambda match: match[0] if _is_formula(match[0]) else rf"\text{{{match[0]}}}", text)


def _from_either_end(match: re.Match[str]) -> str:
    """The angle CAB is the angle BAC, and a triangle has no first corner."""
    name, points = match[1], match[2] or match[3]
    points = "".join(sorted(points)) if name == "triangle" else min(points, points[::-1])
    return rf"\text{{{name} {points}}}"


def _is_formula(run: str) -> bool:
    words = re.findall(r"[A-Za-z]+", run)
    return run[0] == "\\" or any(word.lower() in _MATHEMATICS or word in ("and", "or", "text") for word in words) or all(map(is_product, words))


def is_product(word: str) -> bool:
    """Whether a run of letters reads as a product of variables: `x`, `xy`, `abc`, `pqr`; not `CBA`, `no`, `cat`, `seat`."""
    if len(word) > 1 and word.isupper():
        return False
    letters = word.lower()
    if len(letters) < 3:
        return "o" not in letters or len(letters) == 1
    return len(letters) == 3 and (not set(letters) & set("aeiou") or sorted(letters) == list("abc"))
