"""Rollouts of many problems, in batches that fit in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import torch

from softtokens.models.policy import Policy
from softtokens.models.tokens import problem_ids, written_out
from softtokens.ops.random import Keys
from softtokens.rollout.decode import sample_rollout, stream_rollouts
from softtokens.rollout.decoder import Decoder
from softtokens.rollout.limits import Limits, needed_positions, room_for_prompts
from softtokens.rollout.record import Rollout
from softtokens.thoughts import Thought
from softtokens.types import Problem, UserError

log = logging.getLogger(__name__)
RowName = tuple[int, int]  # position in the problems, number of the rollout


def encode_prompts(policy: Policy, problems: Sequence[Problem]) -> list[list[int]]:
    """Token ids of each problem's prompt. UserError for one that is empty or cannot be fed."""
    return problem_ids(policy, problems)


def require_room(policy: Policy, problems: Sequence[Problem], limits: Limits, *, name: str) -> int:
    """Positions that the longest row may need. UserError if any prompt and the limits do not fit the model's context:
    before a run, not days into it. name: of the problems, for errors."""
    prompts = encode_prompts(policy, problems)
    _warn_of_special_tokens(policy, problems, name)
    room = room_for_prompts(policy, limits)
    too_long = [i for i, ids in enumerate(prompts) if len(ids) > room]
    if too_long:
        longest = max(too_long, key=lambda i: len(prompts[i]))
        raise UserError(
            f"{name} has {len(too_long)} of {len(problems)} prompts that do not fit: with max_thought_steps "
            f"{limits.max_thought_steps} and max_answer_tokens {limits.max_answer_tokens} the model's context of "
            f"{policy.context_length} has room for {max(room, 0)} tokens of prompt, but problem {problems[longest].id} "
            f"(the first is 0) has {len(prompts[longest])}. Lower the limits"
            + ("." if len(too_long) == len(problems) else f", or remove {_rows(problems, too_long)}.")
        )
    return needed_positions(policy, prompts, limits)


def _warn_of_special_tokens(policy: Policy, problems: Sequence[Problem], name: str) -> None:
    of_each = [written for written in written_out(policy.tokenizer, problems) if written]
    if of_each:
        log.warning(
            "%s has %d of %d prompts whose data writes out special tokens, such as %r; they are encoded as text. "
            "--special-tokens encodes them as special tokens.",
            name, len(of_each), len(problems), of_each[0][0],
        )  # fmt: skip


def _rows(problems: Sequence[Problem], chosen: list[int]) -> str:
    ids = ", ".join(str(problems[i].id) for i in chosen[:10])
    return f"row{'s' * (len(chosen) > 1)} {ids}" + (", ..." if len(chosen) > 10 else "")


def sample_problems(
    policy: Policy,
    thought: Thought,
    problems: Sequence[Problem],
    rollout_ids: Sequence[Sequence[int]],
    limits: Limits,
    *,
    seed: int,
    slots: int | None = None,
    decoder: Decoder | None = None,
) -> Rollout:
    """One batch, at most `slots` rows at a time. rollout_ids: for each problem the numbers of its rollouts, which name
    their random numbers; the rows are problem by problem in this order."""
    of_row = [i for i, ids in enumerate(rollout_ids) for _ in ids]
    keys = Keys(
        seed,
        torch.tensor([problems[i].id for i in of_row], device=policy.device),
        torch.tensor([r for ids in rollout_ids for r in ids], device=policy.device),
    )
    prompts = encode_prompts(policy, problems)
    return sample_rollout(policy, thought, prompts, of_row, keys, limits, slots=slots, decoder=decoder)


def stream_problems(
    policy: Policy,
    thought: Thought,
    problems: Sequence[Problem],
    rows: Sequence[RowName],
    limits: Limits,
    *,
    seed: int,
    slots: int,
    decoder: Decoder | None = None,
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
    for finished, rollout in stream_rollouts(
        policy, thought, prompts, of_row, keys, limits, slots=slots, for_replay=False, decoder=decoder
    ):
        yield [rows[row] for row in finished.tolist()], rollout


def in_order_of_length(policy: Policy, problems: Sequence[Problem], numbers: Sequence[int]) -> list[RowName]:
    """All problems with these rollout numbers, problems of similar prompt length next to each other."""
    lengths = [len(ids) for ids in encode_prompts(policy, problems)]
    order = sorted(range(len(problems)), key=lengths.__getitem__)
    return [(i, number) for i in order for number in numbers]
