"""Turn a question into the full text that a model reads, or into the conversation that a chat template renders."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from softtokens.endings import PAPER
from softtokens.types import Messages, Problem, Spans, UserError

PLACE = "{question}"

# The prompt quotes the phrase that ends the thoughts.
_INSTRUCTION = (
    "Solve the problem below. Reason step by step, and close your reply with the words "
    f'"{PAPER.ways[0].text}" followed by the result in \\boxed{{}}.\n\n'
)
MATH_TEMPLATE = _INSTRUCTION + "User: {question}\nAssistant:"  # plain text without a chat template
MATH_MESSAGE = _INSTRUCTION + PLACE  # the user's turn in a chat
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
    return line_ends(template)


def line_ends(text: str) -> str:
    r"""The text of a command line, with line ends for `\n`."""
    return _LINE_END.sub("\n", text)


def fill(template: str, question: str) -> str:
    """Not `str.format`: braces are ordinary characters in questions and in \\boxed{}."""
    return template.replace(PLACE, question)


def places(template: str, question: str) -> Spans:
    """Where the question stands in the filled template."""
    spans, end = [], 0
    for before in template.split(PLACE)[:-1]:
        start = end + len(before)
        end = start + len(question)
        spans.append((start, end))
    return tuple(spans)


@dataclasses.dataclass(frozen=True)
class PromptForm:
    """How a row becomes what a model reads.

    template: text with `{question}` in it; in a chat, of the user's turn. chat: make a conversation, which a chat
    template renders. system: the system message of conversations without one. special_tokens: read special tokens that
    the data writes out as special tokens, not as text.
    """

    template: str
    chat: bool = False
    system: str | None = None
    special_tokens: bool = False

    @property
    def reads_messages(self) -> bool:
        """Whether a row may bring a whole conversation: there is no text to put it into."""
        return self.template == PLACE

    def problem(self, number: int, question: str, answer: str | None, columns: Mapping[str, Any]) -> Problem:
        """The problem that asks this question."""
        text = fill(self.template, question)
        if self.chat:
            return self.conversation(number, ({"role": "user", "content": text},), answer, columns)
        literal = () if self.special_tokens else places(self.template, question)
        return Problem(number, text, answer, columns, literal=literal)

    def conversation(self, number: int, messages: Messages, answer: str | None, columns: Mapping[str, Any]) -> Problem:
        """The problem that continues a conversation."""
        if self.system is not None and messages[0]["role"] != "system":
            messages = ({"role": "system", "content": self.system}, *messages)
        return Problem(number, "", answer, columns, messages=messages)
