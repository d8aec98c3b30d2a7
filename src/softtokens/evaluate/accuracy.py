"""Problems solved, one try each."""

from __future__ import annotations

from collections.abc import Sequence

from softtokens.models.policy import Policy
from softtokens.rewards import Grader
from softtokens.rollout.batches import in_order_of_length, stream_problems
from softtokens.rollout.limits import Limits
from softtokens.thoughts import Thought
from softtokens.types import Problem, Verdict


def count_right(
    policy: Policy,
    thought: Thought,
    problems: Sequence[Problem],
    limits: Limits,
    grader: Grader,
    *,
    seed: int,
    slots: int,
) -> int:
    """How many of the problems are solved. slots: how many run at a time."""
    right = 0
    if not problems:
        return 0
    rows = in_order_of_length(policy, problems, [0])
    for some, rollout in stream_problems(policy, thought, problems, rows, limits, seed=seed, slots=slots):
        verdicts = grader.grade(rollout.answer_texts, [problems[i].answer for i, _ in some])
        right += verdicts.count(Verdict.RIGHT)
    return right
