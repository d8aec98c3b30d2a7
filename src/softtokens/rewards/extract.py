r"""Finds the answer in a text: what stands in its first \boxed{...}."""

from __future__ import annotations

from softtokens.latex import closing_brace

_BOX = r"\boxed{"


def boxed(text: str) -> str | None:
    r"""The content of the first `\boxed{...}`, braces balanced; None if there is none or it never ends.

    The first, not the last: the answer phase begins inside a box, and what a model writes after closing it is not its
    answer. Linear in the length of the text.
    """
    start = text.find(_BOX)
    if start < 0:
        return None
    start += len(_BOX)
    end = closing_brace(text, start)
    return None if end is None else text[start:end]


def answer_in(text: str) -> str | None:
    """The boxed answer; an empty box is no answer, as for Math-Verify."""
    content = boxed(text)
    return content if content and not content.isspace() else None
