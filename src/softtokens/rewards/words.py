"""Tells words and sequences of letters from products of variables: Math-Verify takes all of them for products."""

from __future__ import annotations

import re

NAMES_OF_MATHEMATICS = frozenset(
    re.findall(
        r"\w+",
        "sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan log ln exp sqrt frac max min gcd lcm mod det inf "
        "infty infinity pi theta alpha beta gamma delta lambda mu sigma omega phi",
    )
)
_ANYWHERE_IN_TEXT = r"\\text\s*\{[^{}]*\}"
_GEOMETRY = re.compile(
    r"\\(angle|measuredangle|overline|overleftrightarrow|triangle)\s*(?:\{\s*([A-Z]{2,3})\s*\}|([A-Z]{2,3})(?![A-Za-z]))"
)
_ALONE = re.compile(  # between brackets, commas and the ends of the answer
    _ANYWHERE_IN_TEXT + r"|(?:(?<![^\s,;(\[$])|(?<=\\\{))[A-Za-z]{2,}(?:[ '’-]+[A-Za-z]+)*(?![^\s,;)\]$\\])(?!\\(?!\}))"
)
_NO_VARIABLES = re.compile(_ANYWHERE_IN_TEXT + r"|\\[A-Za-z]+")


def is_product(word: str) -> bool:
    """Whether a run of letters reads as a product of variables: `xy`, `abc`, `pqr`; not `CBA`, `no`, `cat`, `seat`."""
    if len(word) > 1 and word.isupper():
        return False
    letters = word.lower()
    if len(letters) < 3:
        return letters == "o" or "o" not in letters
    return len(letters) == 3 and (not set(letters) & set("aeiou") or sorted(letters) == list("abc"))


def in_text(text: str) -> str:
    r"""The answer with its words, where they stand alone or in a list, in \text{...}: those are compared as texts."""
    text = _GEOMETRY.sub(_from_either_end, text)
    return _ALONE.sub(lambda match: match[0] if _is_formula(match[0]) else rf"\text{{{match[0]}}}", text)


def variables(text: str) -> frozenset[str]:
    """The letters of a formula; of a single letter none, which may be the name of a choice."""
    return frozenset(re.findall(r"[A-Za-z]", _NO_VARIABLES.sub("", text))) if len(text) > 1 else frozenset()


def _from_either_end(match: re.Match[str]) -> str:
    """The angle CAB is the angle BAC, and a triangle has no first corner."""
    name, points = match[1], match[2] or match[3]
    points = "".join(sorted(points)) if name == "triangle" else min(points, points[::-1])
    return rf"\text{{{name} {points}}}"


def _is_formula(run: str) -> bool:
    words = re.findall(r"[A-Za-z]+", run)
    return (
        run.startswith("\\")  # it is in \text already
        or any(word.lower() in NAMES_OF_MATHEMATICS or word in ("and", "or") for word in words)
        or all(map(is_product, words))
    )
