"""The list of graders. A new one is a file with a class and one line in `GRADERS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from softtokens.rewards.exact import ExactGrader
from softtokens.rewards.math import MathGrader
from softtokens.types import UserError, Verdict


class Grader(Protocol):
    def grade(self, completions: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        r"""One verdict per completion.

        A completion is the final part of a rollout only, prefilled text included (`The final answer is: \boxed{42}`),
        never the thoughts: a box in the thoughts is no answer.
        """
        ...

    def groups(self, answers: Sequence[str]) -> list[int]:
        """For each answer the position of the first answer that it equals, perhaps its own: answers with the same
        position are one group. Only the first answer of a group is compared with, so a chain of answers that are each
        close to the next does not become one."""
        ...

    def close(self) -> None:
        """Release the grader's resources. It may be used again afterwards and starts fresh."""
        ...


GRADERS: dict[str, Callable[[], Grader]] = {
    "exact": ExactGrader,
    "math": MathGrader,
}


def grader(name: str) -> Grader:
    if name not in GRADERS:
        raise UserError(f"grader is {name!r}; it must be one of {', '.join(GRADERS)}.")
    return GRADERS[name]()
