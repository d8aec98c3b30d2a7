"""Rollouts of many problems, in batches that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from softtokens.models.policy import Policy
from softtokens.ops.random import Keys
from softtokens.rollout.decode import sample_rollout, stream_rollouts
from softtokens.rollout.limits import Limits, needed_positions
from softtokens.rollout.record import Rollout
from softtokens.thoughts import Thought
from softtokens.types import Problem, UserError

RowName = tuple[int, int]  # position in the problems, number of the rollout


def encode_prompts(policy: Policy, problems: Sequence[Problem]) -> list[list[int]]:
    """Token ids of each problem's prompt, with whatever the tokenizer puts in front of a text."""
    encoded = [policy.tokenizer.encode(problem.prompt) for problem in problems]
    for problem, ids in zip(problems, encoded, strict=True):
        if not ids:
            raise UserError(f"the prompt of problem {problem.id} is empty")
    return encoded


def require_room(policy: Policy, problems: Sequence[Problem], limits: Limits) -> int:
    """Positions that the longest row may need. UserError if any prompt and the limits do not fit the model's context:
    before a run, not days into it."""
    return needed_positions(policy, encode_prompts(policy, problems), limits)


def sample_problems(
    policy: Policy,
    thought: Thought,
    problems: Sequence[Problem],
    rollout_ids: Sequence[Sequence[int]],
    limits: Limits,
    *,
    seed: int,
    slots: int | None = None,
) -> Rollout:
    """One batch, at most `slots` rows at a time. rollout_ids: for each problem the numbers of its rollouts, which name
    their random numbers; the rows are problem by problem in this order."""
    of_row = [i for i, ids in enumerate(rollout_ids) for _ in ids]
    keys = Keys(
        seed,
        torch.tensor([problems[i].id for i in of_row], device=policy.device),
        torch.tensor([r for ids in rollout_ids for r in ids], device=policy.device),
    )
    return sample_rollout(policy, thought, encode_prompts(policy, problems), of_row, keys, limits, slots=slots)


def stream_problems(
    policy: Policy,
    thought: Thought,
    problems: Sequence[Problem],
    rows: Sequence[RowName],
    limits: Limits,
    *,
    seed: int,
    slots: int,
) -> Iterator[tuple[list[RowName], Rollout]]:
    """Rollouts of these rows, (position in problems, number of the rollout) each. Yields (rows, their rollout), some at
    a time, as they finish; what was fed at thought steps is not kept.

    `slots` rollouts run at a time, and a new one starts when one ends; what is sampled does not depend on it.
    """
    used = list(dict.fromkeys(i for i, _ in rows))
    prompts = encode_prompts(policy, [problems[i] for i in used])
    place = {i: at for at, i in enumerate(used)}
    keys = Keys(
        seed,
        torch.tensor([problems[i].id for i, _ in rows], device=policy.device),
        torch.tensor([number for _, number in rows], device=policy.device),
    )
    of_row = [place[i] for i, _ in rows]
    for some, rollout in stream_rollouts(
        policy, thought, prompts, of_row, keys, limits, slots=slots, keep_inputs=False
    ):
        yield [rows[row] for row in some.tolist()], rollout


def in_order_of_length(policy: Policy, problems: Sequence[Problem], numbers: Sequence[int]) -> list[RowName]:
    """All problems with these rollout numbers, problems of similar prompt length next to each other."""
    lengths = [len(ids) for ids in encode_prompts(policy, problems)]
    order = sorted(range(len(problems)), key=lengths.__getitem__)
    return [(i, number) for i in order for number in numbers]
