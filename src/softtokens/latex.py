"""LaTeX in answers: where a brace closes."""

from __future__ import annotations

import re

_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace `\{` is matched whole, so it does not count


def closing_brace(text: str, start: int) -> int | None:
    """Position of the brace that closes the one opened just before `start`; None if none does. Takes linear time."""
    depth = 1
    for match in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return None
