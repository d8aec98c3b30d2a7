r"""Reads an answer's text: what Math-Verify would drop or reorder is taken out of it, or written so that it cannot.

Math-Verify drops units and bases (`5 \text{ km}` is 5, `40_7` is 40), takes a word for a product of its letters, and
reads `1e-05` as e - 5. The rules are listed in docs/metrics.md. Text only: nothing here knows mathematics.
"""

from __future__ import annotations

import dataclasses
import re

from softtokens.rewards.notation import plain_numbers, without_thousands
from softtokens.rewards.quantity import last_letter, without_currency, without_units
from softtokens.rewards.units import Unit, may_be_same
from softtokens.rewards.words import in_text, variables

_SIGNS = str.maketrans(
    {"−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "π": r"\pi ", "°": r"^\circ ", "²": "^2", "³": "^3"}
    | dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003", " ")
)
_FONTS = re.compile(r"\\(?:text(?:rm|bf|it|normal)|math(?:rm|bf|it|sf)|mbox|operatorname)\s*\{")
_NEEDLESS_TEXT = re.compile(  # a number, e or i in another font; a whole answer that begins with a number
    r"\\text\s*\{\s*([ei]|[^{}A-Za-z]*)\s*\}|^\s*\\text\s*\{\s*([-+0-9][^{}]*)\}\s*$"
)
_SPACES = re.compile(r"\\(?:quad|qquad|displaystyle|[;: ])(?![A-Za-z])|\\!|\\,|~")
_SCALE = re.compile(r"\^\s*\{?\s*\\circ\s*\}?\s*(?:\\text\s*\{\s*)?([CF])\b(?:\s*\})?")
_SCALES = {"C": r"\text{ celsius}", "F": r"\text{ fahrenheit}"}
_PERCENT = re.compile(r"(?<=[0-9}])\s*(?:\\text\s*\{\s*)?(?:\\?%|per ?cent\b|percentage\b|pct\b)(?:\s*\})?")
_MODULUS = re.compile(r"\\pmod\s*\{?\s*(\w+)\s*\}?|\\text\s*\{\s*\(\s*mod\s*(\w+)\s*\)\s*\}|\(\s*\\?b?mod\s*(\w+)\s*\)")
_BASE = re.compile(
    r"(?<![\w\\.}])([0-9]+(?:\.[0-9]+)?)(?:_\s*\{\s*([^{}]*|\\text\s*\{[^{}]*\})\s*\}|_([0-9])|"
    r"\s*(?:\\text\s*\{\s*)?\(?\s*base[- ]([0-9]+|[a-z]+)\s*\)?(?:\s*\})?)"
)
_NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}


@dataclasses.dataclass(frozen=True)
class Reading:
    """An answer in parts. `text` is what Math-Verify gets; the other fields are compared here."""

    text: str
    unit: Unit = frozenset()
    bases: tuple[str, ...] = ()
    modulus: str | None = None
    variables: frozenset[str] = frozenset()
    """The letters of a formula: Math-Verify reads R as r."""
    last_letter: tuple[str, Unit, bool] | None = None
    """Of `5 m`, which may be five metres: the text without the letter, the unit, and whether a space is between."""

    def may_equal(self, other: Reading) -> bool:
        """False where two units, bases, moduli or variables differ. What one side omits goes with anything."""
        return (
            may_be_same(self.unit, other.unit)
            and (not self.bases or not other.bases or self.bases == other.bases)
            and (self.modulus is None or other.modulus is None or self.modulus == other.modulus)
            and (self.variables == other.variables or _lower(self.variables) != _lower(other.variables))
        )

    def compared_with(self, other: Reading, *, is_given: bool) -> Reading:
        """This answer with its last letter read as a unit, where the other answer suggests it.

        It does when it has a unit. A plain number that is expected also does: the given `5 m` is 5 metres then. An
        expected `5 m` may be five times m, which is not 5.
        """
        if self.last_letter is None or self.unit:
            return self
        text, unit, spaced = self.last_letter
        if not (other.unit or (is_given and spaced and not other.variables)):
            return self
        return dataclasses.replace(self, text=text, unit=unit, variables=frozenset(), last_letter=None)


def read(text: str) -> Reading:
    text = _tidy(text)
    modulus = _MODULUS.search(text)
    if modulus and modulus.start() > 0:
        text = text[: modulus.start()] + text[modulus.end() :]
    bases = tuple(_number(match[2] or match[3] or match[4] or "") for match in _BASE.finditer(text))
    text, currency = without_currency(_BASE.sub(r"\1", text).strip())
    text, unit = without_units(text)
    text = in_text(plain_numbers(text))
    modulo = next(filter(None, modulus.groups())) if modulus else None
    return Reading(text, currency | unit, bases, modulo, variables(text), last_letter(text))


def _tidy(text: str) -> str:
    text = _FONTS.sub(r"\\text{", without_thousands(text.translate(_SIGNS)))
    text = _NEEDLESS_TEXT.sub(lambda match: match[1] or match[2] or "", text)
    text = _SCALE.sub(lambda match: _SCALES[match[1]], text)
    text = _PERCENT.sub(r"\\%", _SPACES.sub(" ", text)).strip()
    if len(text) > 1 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    return text.removesuffix(".").rstrip()


def _number(word: str) -> str:
    word = re.sub(r"\\text|base|[^0-9A-Za-z]", "", word).lower()
    return str(_NUMBERS.get(word, word))


def _lower(letters: frozenset[str]) -> frozenset[str]:
    return frozenset(letter.lower() for letter in letters)
