"""Takes the unit off an answer: a currency before the number, words behind it."""

from __future__ import annotations

import re

from softtokens.rewards.exact import normalize
from softtokens.rewards.units import MULTIPLES, Unit, is_unit, unit_of
from softtokens.rewards.words import NAMES_OF_MATHEMATICS, is_product

_POWER = r"\^\s*(?:\{\s*-?[0-9]\s*\}|[0-9])"
_TOKEN = re.compile(
    r"\\text\s*\{[^{}]*\}|\\[A-Za-z]+|\\.|[ap]\.\s?m\b\.?|[A-Za-z][A-Za-z.'’-]*|\s+|\^\s*(?:\{[^{}]*\}|[0-9]|\\circ)|.",
    re.DOTALL,
)
_CURRENCY = re.compile(
    r"([-+]?)\s*(?:US|\\text\s*\{\s*US\s*\})?"
    r"(?:\\text\s*\{\s*(\\\$)\s*\}|(\\\$|[$€£¥₹]|Rs|\\pounds|\\euro(?![a-z])))\.?\s*(?=[-+.\d\\(])"
)
_ORDINAL = re.compile(r"([0-9]+)\s*(?:\^\s*)?\{?\s*(?:\\text\s*\{\s*)?(?:st|nd|rd|th)(?:\s*\})?\s*\}?")
_IN_A_LIST = re.compile(rf"(?<=[0-9}}])\s*(?:\\text\s*\{{([^{{}}]*)\}}|([a-z]{{2,}}))(\s*{_POWER})?(?=\s*[,;)\]])")
_LAST_LETTER = re.compile(r"(.*[0-9}])(\s*)([mgshlL])", re.DOTALL)
_ENDS_A_VALUE = re.compile(r"[0-9}\])!%]$|\\(?:pi|infty)$")
# Words after a number that change its meaning: `5 or more`, `5 times`.
_CLAIMS = frozenset(
    re.findall(r"\w+", "or and not than is are times over plus minus divided factorial if where when for all any both")
)


def without_currency(text: str) -> tuple[str, Unit]:
    match = _CURRENCY.match(text)
    return (match[1] + text[match.end() :], unit_of(match[2] or match[3])) if match else (text, frozenset())


def last_letter(text: str) -> tuple[str, Unit, bool] | None:
    """For an answer such as `5 m`: the rest, the unit that the letter may be, and whether a space separates them."""
    match = _LAST_LETTER.fullmatch(text)
    return (match[1], unit_of(match[3]), bool(match[2])) if match else None


def without_units(text: str) -> tuple[str, Unit]:
    r"""The value, and the words behind it: any in \text{...}, and plain ones that cannot be a product of variables.
    What multiplies, such as million, goes to the value."""
    if match := _ORDINAL.fullmatch(text):
        return match[1], frozenset()
    text, phrases = _without_units_in_lists(text)
    value, tail = _split(text)
    words = [word.lower() for token in tail for word in re.findall(r"[A-Za-z.]+", token.removeprefix(r"\text"))]
    if not _is_unit_behind(value, tail, words):
        return text, unit_of(" ".join(phrases))
    value = value.rstrip()
    multiple = 1
    for word in words:
        multiple *= MULTIPLES.get(word.removesuffix("s"), 1)
    if multiple > 1:
        value = rf"{normalize(value)} \times {multiple}"
    tail = [re.sub(r"^\\text\s*\{|\}$", " ", token) if token.startswith(r"\text") else token for token in tail]
    return value, unit_of(" ".join([*tail, *phrases]).replace(r"\circ", " degree ")) - {"th"}


def _without_units_in_lists(text: str) -> tuple[str, list[str]]:
    phrases = []

    def drop(match: re.Match[str]) -> str:
        words = re.findall(r"[A-Za-z.]+", match[1] or match[2] or "")
        if not words or not all(map(is_unit, words)):
            return match[0]
        phrases.append((match[1] or match[2]) + (match[3] or ""))
        return ""

    return _IN_A_LIST.sub(drop, text), phrases


def _split(text: str) -> tuple[str, list[str]]:
    """The text up to the last token that cannot be of a unit, and the tokens behind it."""
    tokens = _TOKEN.findall(text)
    start = len(tokens)
    while start and _may_be_of_a_unit(tokens[start - 1]):
        start -= 1
    while start < len(tokens) and (tokens[start][0] in "^/" or tokens[start].isspace()) and "circ" not in tokens[start]:
        start += 1  # a unit begins with a word or a degree sign; an exponent belongs to the value
    return "".join(tokens[:start]), tokens[start:]


def _may_be_of_a_unit(token: str) -> bool:
    if token.startswith("\\"):
        return token.startswith(r"\text") or token in (r"\degree", r"\pounds", r"\euro", r"\$")
    if token[0].isalpha():
        return token.lower() not in NAMES_OF_MATHEMATICS
    return token.isspace() or token[0] in "^/$€£¥₹¢"


def _is_unit_behind(value: str, tail: list[str], words: list[str]) -> bool:
    plain = [token for token in tail if token[0].isalpha()]
    if not tail or not value.strip() or _CLAIMS & set(words) or words[:1] in (["squared"], ["cubed"]):
        return False
    if not _ENDS_A_VALUE.search(value.rstrip()) and (plain or not re.search(r"[A-Za-z]$", value.rstrip())):
        return False
    spaced = value != value.rstrip()
    compound = spaced and ("/" in tail or any(len(word) > 1 and is_unit(word) for word in plain))
    return all(_is_plain_unit(word, spaced, compound) for word in plain)


def _is_plain_unit(word: str, spaced: bool, compound: bool) -> bool:
    r"""Whether a word outside of \text is a unit or a noun: `5km`, `18 dollars`, `5 sq m`; not `5 n`, `3 abc`."""
    if is_unit(word):
        return len(word) > 1 or compound
    return (spaced and len(word) > 2 and not is_product(word)) or word.lower() in ("of", "to")
