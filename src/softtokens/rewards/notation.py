r"""Numbers as people write them, in LaTeX that Math-Verify reads: `2 1/2`, `1.5e-05`, `1\,000`, `0.\overline{3}`."""

from __future__ import annotations

import re

_THOUSANDS = re.compile(r"(?<![\w.])[0-9]{1,3}(?:(?:\\,|\{,\}|,\s*\\!|\\!,|,\\,)\s*[0-9]{3})+(?![0-9])")
_SPACED_THOUSANDS = re.compile(r"([+-]?[1-9][0-9]{0,2}(?: [0-9]{3})+)(\.[0-9]+)?")
_EXPONENT = re.compile(r"(?<![\w.\\])([0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE]([+-]?[0-9]{1,3})(?![\w.])")
_MIXED = re.compile(r"(?<![\w.,/}^_{)] )(?<![\w.,/}^_{)])([0-9]{1,9})\s+([0-9]{1,9})\s*/\s*([0-9]{1,9})(?![\w./^!])")
_REPEATING = re.compile(r"(?<![\w.])([0-9]*)\.([0-9]{0,20})\\(?:overline|bar)\s*(?:\{([0-9]{1,20})\}|([0-9]))")
_RATIO = re.compile(r"([0-9]+)\s+(?:\\text\s*\{\s*)?to(?:\s*\})?\s+([0-9]+)")
_FULL_HOUR = re.compile(r"([0-9]{1,2}):00")


def without_thousands(text: str) -> str:
    r"""`1\,000`, `1{,}000` and `1,\!000` as 1000. Before spaces are tidied: they tell it from a list."""
    return _THOUSANDS.sub(lambda match: re.sub(r"[^0-9]", "", match[0]), text)


def plain_numbers(text: str) -> str:
    text = _REPEATING.sub(_from_cycle, _EXPONENT.sub(_from_exponent, text))
    if match := _RATIO.fullmatch(text):
        return f"{match[1]}:{match[2]}"
    if match := _FULL_HOUR.fullmatch(text):  # a time such as 3:00: a ratio to 0 is impossible
        return match[1]
    if match := _SPACED_THOUSANDS.fullmatch(text):
        return match[1].replace(" ", "") + (match[2] or "")
    return _MIXED.sub(_from_mixed, text)


def _from_exponent(match: re.Match[str]) -> str:
    """`2.5e-05` as 0.000025: shifting the point is exact."""
    whole, _, fraction = match[1].partition(".")
    digits, point = whole + fraction, len(whole) + int(match[2])
    if point <= 0:
        return "0." + "0" * -point + digits
    digits = digits.ljust(point, "0")
    return f"{digits[:point]}.{digits[point:]}" if digits[point:] else digits


def _from_cycle(match: re.Match[str]) -> str:
    whole, fixed, cycle = match[1] or "0", match[2], match[3] or match[4]
    numerator = int(whole + fixed + cycle) - int(whole + fixed)
    return rf"\frac{{{numerator}}}{{{(10 ** len(cycle) - 1) * 10 ** len(fixed)}}}"


def _from_mixed(match: re.Match[str]) -> str:
    whole, top, bottom = map(int, match.groups())
    return rf"\frac{{{whole * bottom + top}}}{{{bottom}}}" if bottom else match[0]
