"""Rollouts of many problems, in batches that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from softtokens.models.policy import Policy
from softtokens.ops.random import Keys
from softtokens.rollout.decode import Limits, needed_positions, sample_rollout
from softtokens.rollout.record import Rollout
from softtokens.thoughts import Thought
from softtokens.types import Problem, UserError


def encode_prompts(policy: Policy, problems: Sequence[Problem]) -> list[list[int]]:
    """Token ids of each problem's prompt, with whatever the tokenizer puts in front of a text."""
    encoded = [policy.tokenizer.encode(problem.prompt) for problem in problems]
    for problem, ids in zip(problems, encoded, strict=True):
        if not ids:
            raise UserError(f"the prompt of problem {problem.id} is empty")
    return encoded


def require_room(policy: Policy, problems: Sequence[Problem], limits: Limits) -> None:
    """Raise UserError if any prompt and the limits do not fit the model's context: before a run, not days into it."""
    needed_positions(policy, encode_prompts(policy, problems), limits)


def sample_problems(
    policy: Policy,
    thought: Thought,
    problems: Sequence[Problem],
    rollout_ids: Sequence[Sequence[int]],
    limits: Limits,
    *,
    seed: int,
) -> Rollout:
    """One batch. rollout_ids: for each problem the numbers of its rollouts, which name their random numbers; the rows
    are problem by problem in this order."""
    of_row = [i for i, ids in enumerate(rollout_ids) for _ in ids]
    keys = Keys(
        seed,
        torch.tensor([problems[i].id for i in of_row], device=policy.device),
        torch.tensor([r for ids in rollout_ids for r in ids], device=policy.device),
    )
    return sample_rollout(policy, thought, encode_prompts(policy, problems), of_row, keys, limits)


def batches(
    policy: Policy,
    thought: Thought,
    problems: Sequence[Problem],
    samples: int,
    limits: Limits,
    *,
    seed: int,
    rows_per_batch: int = 256,
) -> Iterator[tuple[list[tuple[int, int]], Rollout]]:
    """`samples` rollouts of every problem. Yields ([(position in problems, sample), ...] by row, rollout).

    Problems of similar prompt length share a batch; what is sampled does not depend on it.
    """
    order = sorted(range(len(problems)), key=lambda i: len(problems[i].prompt))
    rows = [(i, sample) for i in order for sample in range(samples)]
    for start in range(0, len(rows), rows_per_batch):
        part = rows[start : start + rows_per_batch]
        of_problem: dict[int, list[int]] = {}
        for i, sample in part:
            of_problem.setdefault(i, []).append(sample)
        chosen = [problems[i] for i in of_problem]
        yield part, sample_problems(policy, thought, chosen, list(of_problem.values()), limits, seed=seed)
