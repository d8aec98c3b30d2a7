"""Turn a question into the full text that a model reads."""

from __future__ import annotations

import re

from softtokens.endings import PAPER
from softtokens.types import UserError

PLACE = "{question}"

# Plain text without a chat template. It names the phrase that ends the thoughts.
MATH_TEMPLATE = (
    "Solve the problem below. Reason step by step, and close your reply with the words "
    f'"{PAPER.ways[0].text}" followed by the result in \\boxed{{}}.\n\n'
    "User: {question}\nAssistant:"
)
CHOICE_TEMPLATE = "Question: {question}\nAnswer:"


# A shell passes \n on as two characters. They mean a line end unless they begin a LaTeX command.
_LINE_END = re.compile(
    r"\\n(?!(?:abla|eg?|eqq?|eq|ot|otin|u|i|mid|leq|geq|less|gtr|parallel|subseteq|earrow|warrow|exists|ewline|onumber|"
    r"ormalsize|obreak|atural|cong|prec|succ|sim)(?![A-Za-z]))"
)


def check_template(template: str) -> str:
    r"""The template, with line ends for `\n`. UserError where it has no place for the question."""
    if PLACE not in template:
        raise UserError(f"template is {template!r}; it has to say where the question goes: {PLACE}.")
    return _LINE_END.sub("\n", template)


def fill(template: str, question: str) -> str:
    """Not `str.format`: braces are ordinary characters in questions and in \\boxed{}."""
    return template.replace(PLACE, question)
