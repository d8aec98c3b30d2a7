"""The types that every other module uses: problems and the grader's verdicts.

Axis names in all shape comments: `problems`, `group` (rollouts per problem), `rows` (= problems * group), `seq`,
`steps` (thought steps), `answer` (answer tokens), `dim` (embedding width), `vocab`.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from typing import Any


class UserError(Exception):
    """An unusable input. The message names the parameter, the value, what is allowed and what to do. The command line
    prints it as one sentence without a traceback and exits with code 2.

    Deliberately not a ValueError: tyro would catch it and print it in a box.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class name if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class OtherProcessFailed(Exception):
    """Another process of the run has failed; its own log has the reason."""


class Verdict(enum.Enum):
    """The grader's verdict on one completion."""

    RIGHT = "right"
    WRONG = "wrong"  # an answer was read, and it is not right
    NO_ANSWER = "no_answer"  # no finished \\boxed{...} in the text
    GRADER_TIMEOUT = "grader_timeout"  # grading this text took longer than the limit
    GRADER_ERROR = "grader_error"  # the grader failed on this text (crash, out of memory)


Messages = tuple[Mapping[str, Any], ...]  # of a conversation, each with a role and a content
Spans = tuple[tuple[int, int], ...]  # start and end of parts of a text, in characters


@dataclasses.dataclass(frozen=True)
class Problem:
    """One question, with a checkable answer unless only a reward function of the user's judges it.

    `id` is the position in its data set: with the run seed it keys the randomness of the problem's rollouts.
    `prompt` is the full text the model reads; `columns` holds the other fields of the row, handed to reward functions.
    `messages` is the conversation that a chat template makes the prompt of, and empty for plain prompts; until the
    template is applied, the prompt is empty. `literal` holds the spans of the prompt, in characters, that come from the
    data: a special token written out there is encoded as the text it is.
    """

    id: int
    prompt: str
    answer: str | None
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    messages: Messages = ()
    literal: Spans = ()


@dataclasses.dataclass(frozen=True)
class ChoiceItem:
    """One multiple-choice question: the model's likelihood of each choice after `prompt` is compared."""

    id: int
    prompt: str
    choices: tuple[str, ...]
    answer: int


def answers_of(problems: Iterable[Problem]) -> list[str]:
    """The answers of problems that all have one, for a grader."""
    answers = [problem.answer for problem in problems]
    known = [answer for answer in answers if answer is not None]
    assert len(known) == len(answers), "a problem without an answer reached a grader"
    return known
