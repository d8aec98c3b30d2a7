"""From texts to rewards: a grader with the paper's scale, or the user's own function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from softtokens.rewards import Grader, RewardScale
from softtokens.types import Problem, UserError, Verdict

_OWN = {"prompt", "prompts", "completion", "completions", "answer"}  # arguments that are not columns of the data set
RewardFunction = Callable[..., Sequence[float]]


class Scorer(Protocol):
    """Rewards of completions, one problem per completion; verdicts where a grader gave them."""

    def __call__(
        self, problems: Sequence[Problem], thoughts: Sequence[str], answers: Sequence[str]
    ) -> tuple[list[float], list[Verdict] | None]: ...


def graded(grader: Grader, scale: RewardScale) -> Scorer:
    """Grade the boxed answer against the problem's."""

    def score(problems, thoughts, answers):
        del thoughts
        verdicts = grader.grade(answers, [problem.answer for problem in problems])
        return [scale.reward(verdict) for verdict in verdicts], verdicts

    return score


def by_function(function: RewardFunction) -> Scorer:
    """A reward function as users of TRL know it: `function(prompts, completions, **columns) -> list of floats`.

    A completion is the (shadow) text of the thoughts, the forced text and the answer. The columns are those of the
    data set's rows, and `answer`.
    """

    def score(problems, thoughts, answers):
        names = sorted({name for problem in problems for name in problem.columns} - _OWN)
        columns = {name: [problem.columns.get(name) for problem in problems] for name in names}
        rewards = function(
            prompts=[problem.prompt for problem in problems],
            completions=[t + a for t, a in zip(thoughts, answers, strict=True)],
            answer=[problem.answer for problem in problems],
            **columns,
        )
        try:
            rewards = [float(reward) for reward in rewards]
        except TypeError as error:  # None, for one
            raise UserError(f"the reward function returned something other than a list of numbers: {error}") from error
        if len(rewards) != len(problems):
            raise UserError(f"the reward function returned {len(rewards)} rewards for {len(problems)} completions")
        for i, reward in enumerate(rewards):
            if not math.isfinite(reward):
                raise UserError(f"the reward function returned {reward} for completion {i}; rewards must be finite")
        return rewards, None

    return score
