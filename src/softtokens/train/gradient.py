"""The gradient of a batch of rollouts, in parts that fit in memory, with the two terms measured separately if
requested."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import torch
from torch import Tensor

from softtokens.models.prefix import PromptStates
from softtokens.ops.denormals import flushing_denormals
from softtokens.rollout.memory import is_out_of_memory, release
from softtokens.rollout.record import Rollout
from softtokens.rollout.replay import ExpectedGradient, Replay, replay
from softtokens.rollout.spikes import Spikes
from softtokens.thoughts import Thought
from softtokens.train.batch_sizes import WANTED_POSITIONS
from softtokens.train.objective import TermWeights, expected_gradient, policy_terms
from softtokens.train.process_memory import give_back
from softtokens.train.weights import Weights, local, total_norm
from softtokens.types import UserError


@dataclasses.dataclass(frozen=True)
class Batch:
    """This process's rows of a step. total_rows: rows of all processes; the loss is divided by it."""

    thought: Thought
    rollout: Rollout
    advantages: Tensor
    total_rows: int
    answer_temperature: float = 1.0


class Gradient(NamedTuple):
    """The result of `accumulate_gradient`. replay: of this process's rows, without gradient. losses: of this
    process's rows. norms: gradient norms of the two terms over all rows, if measured. tokens_per_backward: positions
    per pass, fewer than requested if memory ran out."""

    replay: Replay
    losses: dict[str, float]
    norms: dict[str, float]
    tokens_per_backward: int


@flushing_denormals()
def accumulate_gradient(
    weights: Weights,
    batch: Batch,
    terms: TermWeights,
    *,
    tokens_per_backward: int | None = None,
    apart: bool = False,
    clip_each: float | None = None,
    spikes: Spikes | None = None,
) -> Gradient:
    """Write the gradient of the loss of all processes' rows into `.grad` of the parameters.

    Rows run in parts of at most `tokens_per_backward` positions (including padding; at least one row), and so do the
    prompts they share. Sort rows by length, so that little is padding. apart: measure the gradient norms of the
    (weighted) terms separately, which takes one pass per term. clip_each: scale each term's gradient down to this norm
    before adding them. spikes: receives the gradient of every thought. When memory runs out, parts are halved down to a
    single row, unless weights are sharded. Raises UserError if a single row does not fit.
    """
    passes = (
        {"thought": TermWeights(terms.thought, 0), "answer": TermWeights(0, terms.answer)} if apart else {"": terms}
    )
    tokens = tokens_per_backward or WANTED_POSITIONS[weights.sampler.device.type]
    norms: dict[str, float] = {}
    first: list[Tensor] | None = None
    # Return the memory that rollouts fragmented, once. Returning pages between parts too would make the kernel clear
    # them for each part, which costs an eighth or more of a small model's update.
    give_back(weights.world.device)
    weights.put_gradients(None)
    for name, chosen in passes.items():
        watching = spikes if chosen.thought else None
        replayed, losses, tokens = _until_it_fits(weights, batch, chosen, tokens, watching)
        gradient = weights.take_gradients()
        if apart:
            norms[f"grad_norm/{name}"] = total_norm(gradient)
            if clip_each:
                torch._foreach_mul_(gradient, min(1.0, clip_each / (norms[f"grad_norm/{name}"] + 1e-6)))
        if first is not None:
            _add(gradient, first)
        elif apart:
            first, gradient = _in_main_memory(gradient), None  # off the device: it is only a diagnostic
    weights.put_gradients(gradient)
    return Gradient(replayed, losses, norms, tokens)


def _in_main_memory(gradients: list[Tensor]) -> list[Tensor]:
    return [local(gradient).to("cpu") for gradient in gradients]


def _add(gradients: list[Tensor], others: list[Tensor]) -> None:
    for gradient, other in zip(gradients, others, strict=True):
        local(gradient).add_(other.to(local(gradient).device))


def _until_it_fits(
    weights: Weights, batch: Batch, terms: TermWeights, tokens: int, spikes: Spikes | None
) -> tuple[Replay, dict[str, float], int]:
    """`_one_pass` with as many positions at a time as memory allows. Also returns that number."""
    if weights.in_step:  # the other processes are in the same pass and cannot restart it
        return *_one_pass(weights, batch, terms, tokens, spikes), tokens

    def halving(tokens: int) -> tuple[Replay, dict[str, float], int]:
        least = int(torch.maximum(batch.rollout.prompt_lengths, batch.rollout.emitted_lengths).max())
        while True:
            try:
                return *_one_pass(weights, batch, terms, tokens, spikes), tokens
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if tokens <= least:
                    raise UserError(
                        "memory ran out in an update with a single rollout in a pass. Use --activation-checkpointing "
                        "always, --dtype bfloat16 or --lora-rank 16, lower max_thought_steps, or shard the weights "
                        "over several devices with --parallel fsdp."
                    ) from error
            weights.put_gradients(None)
            if spikes is not None:
                spikes.forget()
            release(weights.world.device)
            tokens = max(least, tokens // 2)

    return weights.world.together(lambda: halving(tokens))


def _one_pass(
    weights: Weights, batch: Batch, terms: TermWeights, tokens: int, spikes: Spikes | None
) -> tuple[Replay, dict[str, float]]:
    """Forward and backward over all rows, one group of prompts at a time. Problems whose rows all have advantage 0
    do not contribute to the gradient, so they run forward only, for the metrics."""
    groups = _groups(batch, tokens) if weights.shares_prompts else [torch.arange(batch.rollout.rows)]
    losses = {"loss/thought": 0.0, "loss/answer": 0.0}
    replays: list[Replay] = []
    for rows in groups:
        members = batch  # a single group is the whole batch: no need to copy it
        if len(groups) > 1:
            members = dataclasses.replace(batch, rollout=batch.rollout.take(rows), advantages=batch.advantages[rows])
        learns = not weights.shares_prompts or bool(members.advantages.any())
        with torch.set_grad_enabled(learns):
            replayed, terms_of_group = _one_group(weights, members, terms, tokens, spikes)
        replays += replayed
        for name, value in zip(losses, terms_of_group, strict=True):
            losses[name] += value
    return _concatenated(replays, torch.cat(groups).argsort()), losses


def _one_group(
    weights: Weights, batch: Batch, terms: TermWeights, tokens: int, spikes: Spikes | None
) -> tuple[list[Replay], list[float]]:
    """Forward and backward over the rows of one group of prompts.

    Each prompt runs once where the weights allow it. The gradient with respect to its keys and values is summed over
    the parts and propagated through the prompt at the end.
    """
    ran: PromptStates | None = None
    shared: PromptStates | None = None
    prompt_of_row: Tensor | None = None
    if weights.shares_prompts:
        prompts, prompt_of_row = batch.rollout.prompts()
        ran = weights.policy.prompt_states(prompts)
        shared = ran.as_leaves()
    parts = _parts(batch.rollout, tokens, counts_prompts=not weights.shares_prompts)
    totals = [0.0, 0.0]
    replays: list[Replay] = []
    for rows, counts in _in_step(weights, parts):
        loss, values, part = weights.run(
            functools.partial(_part, weights, batch, rows, terms, shared, prompt_of_row, spikes if counts else None)
        )
        if loss.requires_grad:  # False if both weights are 0 or there are no such steps
            (loss * (weights.gradient_scale if counts else 0.0)).backward()
        if counts:
            replays.append(part)
            totals = [total + value for total, value in zip(totals, values, strict=True)]
    if ran is not None and shared is not None:
        _through_prompts(ran, shared)
    return replays, totals


def _part(
    weights: Weights,
    batch: Batch,
    rows: Tensor,
    terms: TermWeights,
    prompts: PromptStates | None,
    prompt_of_row: Tensor | None,
    spikes: Spikes | None,
) -> tuple[Tensor, list[float], Replay]:
    """The weighted loss of some rows, with gradient; its two terms without weights; and their replay."""
    rollout, advantages, learns = batch.rollout.take(rows), batch.advantages[rows], torch.is_grad_enabled()
    if prompts is None or prompt_of_row is None:
        distinct, of_row = rollout.prompts()
        prompts = weights.policy.prompt_states(distinct)
    else:
        of_row = prompt_of_row[rows]
    replayed = replay(
        weights.policy,
        batch.thought,
        rollout,
        answer_temperature=batch.answer_temperature,
        prompts=prompts,
        prompt_of_row=of_row,
        expected=expected_gradient(advantages, batch.total_rows, terms) if learns else ExpectedGradient(),
        spikes=spikes,
    )
    values = policy_terms(replayed, advantages, batch.total_rows)
    # a term of weight 0 is dropped, not multiplied: 0 * inf would be NaN
    weighted = [w * t for w, t in zip((terms.thought, terms.answer), values, strict=True) if w]
    loss = sum(weighted, start=torch.zeros((), device=advantages.device))
    return loss, [float(t.detach()) for t in values], _detached(replayed)


def _in_step(weights: Weights, parts: list[Tensor]) -> list[tuple[Tensor, bool]]:
    """The parts, and whether they count. Where processes must stay in step, those with fewer parts repeat their
    first part and discard the result."""
    wanted = max(weights.world.gather(len(parts))) if weights.in_step else len(parts)
    return [(part, True) for part in parts] + [(parts[0], False)] * (wanted - len(parts))


def _groups(batch: Batch, tokens: int) -> list[Tensor]:
    """Groups of rows whose prompts, padded to the longest, have at most this many positions (one prompt at least).
    Prompts with an advantage and prompts without any are in separate groups. The order of rows in a group is kept."""
    prompts, prompt_of_row = batch.rollout.prompts()
    with_advantage = set(prompt_of_row[batch.advantages != 0].tolist())
    groups: list[list[int]] = []
    learned: bool | None = None
    longest = 0
    for prompt in sorted(range(len(prompts)), key=lambda i: (i not in with_advantage, len(prompts[i]))):
        if learned != (prompt in with_advantage) or (len(groups[-1]) + 1) * max(longest, len(prompts[prompt])) > tokens:
            groups.append([])
            learned, longest = prompt in with_advantage, 0
        longest = max(longest, len(prompts[prompt]))
        groups[-1].append(prompt)
    return [torch.isin(prompt_of_row, prompt_of_row.new_tensor(group)).nonzero()[:, 0] for group in groups]


def _parts(rollout: Rollout, tokens: int, *, counts_prompts: bool) -> list[Tensor]:
    """Consecutive rows that fit the budget when padded to the longest of them. counts_prompts: with their prompts, of
    which each part runs its own."""
    lengths, prompt_lengths = rollout.emitted_lengths.tolist(), rollout.prompt_lengths.tolist()
    prompt_of_row = rollout.prompts()[1].tolist() if counts_prompts else []
    parts, start = [], 0

    def positions(end: int) -> int:
        rows = (end - start) * max(lengths[start:end])
        return rows + len(set(prompt_of_row[start:end])) * max(prompt_lengths[start:end])

    for row in range(1, rollout.rows + 1):
        if row == rollout.rows or positions(row + 1) > tokens:
            parts.append(torch.arange(start, row, device=rollout.ids.device))
            start = row
    return parts


def _through_prompts(ran: PromptStates, leaves: PromptStates) -> None:
    """Propagate the gradients of the prompts' states through the prompts."""
    pairs = zip(ran.tensors, (leaf.grad for leaf in leaves.tensors), strict=True)
    reached = [(x, g) for x, g in pairs if x.requires_grad and g is not None]
    if reached:
        torch.autograd.backward([x for x, _ in reached], [g for _, g in reached])


def _detached(part: Replay) -> Replay:
    return Replay(**{f.name: getattr(part, f.name).detach() for f in dataclasses.fields(part)})


def _concatenated(parts: list[Replay], order: Tensor) -> Replay:
    """The replays of all parts as one, in order."""
    names = [field.name for field in dataclasses.fields(Replay)]
    joined = {name: _stack([getattr(part, name) for part in parts]) for name in names}
    return Replay(**{name: x[order.to(x.device)] for name, x in joined.items()})


def _stack(parts: list[Tensor]) -> Tensor:
    """Rows of tensors [rows, steps] whose steps differ, with zeros (False) at the end of the shorter ones."""
    steps = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, steps - part.shape[1])) for part in parts])
