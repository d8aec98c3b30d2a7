"""The words every other module speaks: a problem, and the grader's verdict.

Axis names used in every shape comment: `problems`, `group` (rollouts per problem), `rows` (= problems * group),
`seq`, `steps` (thought steps), `answer` (answer tokens), `dim` (embedding width), `vocab`.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from typing import Any


class UserError(Exception):
    """Something the user gave cannot work. The message names the parameter, what was got, what is allowed and what
    to do; the command line prints it as one sentence without a traceback and exits with code 2.

    No ValueError: the parser of flags would put those into a frame of its own."""


def first_line(error: BaseException) -> str:
    """Of its message, or the name of its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class OtherProcessFailed(Exception):
    """Another process of the run has failed, and says why."""


class Verdict(enum.Enum):
    """What the grader said of one completion."""

    RIGHT = "right"
    WRONG = "wrong"  # an answer could be read, and it is not the right one
    NO_ANSWER = "no_answer"  # no finished \\boxed{...} in the text
    GRADER_TIMEOUT = "grader_timeout"  # grading took longer than its limit; the text is to blame
    GRADER_ERROR = "grader_error"  # the grader failed on this text (crash, out of memory)


@dataclasses.dataclass(frozen=True)
class Problem:
    """One question, with a checkable answer unless only a reward function of the user's judges it.

    `id` is the position in its data set: with the run seed it keys the randomness of the problem's rollouts.
    `prompt` is the full text the model reads; `columns` holds the other fields of the row, handed to reward functions.
    """

    id: int
    prompt: str
    answer: str | None
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ChoiceItem:
    """One multiple-choice question: the model's likelihood of each choice after `prompt` is compared."""

    id: int
    prompt: str
    choices: tuple[str, ...]
    answer: int


def answers_of(problems: Iterable[Problem]) -> list[str]:
    """For a grader, which needs the answer of every problem."""
    answers = [problem.answer for problem in problems]
    known = [answer for answer in answers if answer is not None]
    assert len(known) == len(answers), "a problem without an answer reached a grader"
    return known
