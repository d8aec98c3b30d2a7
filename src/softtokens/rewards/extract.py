r"""Finds the answer in a text: what stands in its first \boxed{...}."""

from __future__ import annotations

import re

_BOX = r"\boxed{"
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped character is taken whole, so `\{` is no brace


def boxed(text: str) -> str | None:
    r"""The content of the first `\boxed{...}`, braces balanced; None if there is none or it never ends.

    The first, not the last: the answer phase begins inside a box, and what a model writes after closing it is not its
    answer. Linear in the length of the text.
    """
    start = text.find(_BOX)
    if start < 0:
        return None
    start += len(_BOX)
    depth = 1
    for match in _BRACE.finditer(text, start):
        if match.group() == "{":
            depth += 1
        elif match.group() == "}":
            depth -= 1
            if depth == 0:
                return text[start : match.start()]
    return None


def answer_in(text: str) -> str | None:
    """The boxed answer; an empty box is no answer, as for Math-Verify."""
    content = boxed(text)
    return content if content and not content.isspace() else None
