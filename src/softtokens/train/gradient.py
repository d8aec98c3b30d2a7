"""The gradient of a batch of rollouts, in parts that fit in memory, with the two terms apart where asked."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor

from softtokens.models.prefix import PromptStates
from softtokens.ops.denormals import flushing_denormals
from softtokens.rollout.record import Rollout
from softtokens.rollout.replay import Replay, replay
from softtokens.rollout.spikes import Spikes
from softtokens.thoughts import Thought
from softtokens.train.loss import TermWeights, expected_gradient, policy_terms
from softtokens.train.memory import give_back
from softtokens.train.weights import Weights, total_norm

# On the CPU activations should be reused before they leave the caches: all rows at once are three times slower.
TOKENS_PER_BACKWARD = {"cpu": 1 << 10, "cuda": 1 << 14}


@dataclasses.dataclass(frozen=True)
class Batch:
    """This process's rows of a step. total_rows: of all processes; each row's advantage is divided by it."""

    thought: Thought
    rollout: Rollout
    advantages: Tensor
    total_rows: int
    answer_temperature: float = 1.0


class Gradient(NamedTuple):
    """The replay of this process's rows, without gradient; the losses, of these rows alone; the norms of the two
    terms' gradients, of all rows, where they were taken apart."""

    seen: Replay
    losses: dict[str, float]
    norms: dict[str, float]


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

    Rows run in parts of at most `tokens_per_backward` positions (padding included, one row at least). Rows should be
    sorted by length, then little is padding. apart: measure the (weighted) terms' gradient norms, which takes a pass
    for each. clip_each: scale each term's gradient down to this norm before adding them. spikes: told of the gradient
    of every thought.
    """
    passes = [terms] if not apart else [TermWeights(terms.thought, 0), TermWeights(0, terms.answer)]
    tokens = tokens_per_backward or TOKENS_PER_BACKWARD[weights.sampler.device.type]
    gradients, losses, norms = [], {}, {}
    # What rollouts left in pieces goes back, once: pages that went back between the parts as well would have to be
    # cleared for each again, an eighth and more of a small model's update.
    give_back(weights.world.device)
    weights.put_gradients(None)
    for chosen in passes:
        seen, losses = _one_pass(weights, batch, chosen, tokens, spikes if chosen.thought else None)
        gradients.append(weights.take_gradients())
    if apart:
        for name, gradient in zip(("thought", "answer"), gradients, strict=True):
            norms[f"grad_norm/{name}"] = total_norm(gradient)
            if clip_each:
                torch._foreach_mul_(gradient, min(1.0, clip_each / (norms[f"grad_norm/{name}"] + 1e-6)))
        torch._foreach_add_(gradients[0], gradients[1])
    weights.put_gradients(gradients[0])
    return Gradient(seen, losses, norms)


def _one_pass(
    weights: Weights, batch: Batch, terms: TermWeights, tokens: int, spikes: Spikes | None
) -> tuple[Replay, dict[str, float]]:
    """Forward and backward over all rows.

    Each prompt runs once where the weights allow it. The gradient with respect to its keys and values is summed over
    the parts and taken back through the prompt at the end.
    """
    ran = shared = prompt_of_row = None
    if weights.shares_prompts:
        prompts, prompt_of_row = batch.rollout.prompts()
        ran = weights.policy.prompt_states(prompts)
        shared = ran.as_leaves()
    parts = _parts(batch.rollout, tokens)
    losses = {"loss/thought": 0.0, "loss/answer": 0.0}
    seen: list[Replay] = []
    for rows, counts in _in_step(weights, parts):
        loss, found, part = weights.run(
            lambda rows=rows, watch=spikes if counts else None: _part(
                weights, batch, rows, terms, shared, prompt_of_row, watch
            )
        )
        if loss.requires_grad:  # else both weights are 0, or there are no such steps
            (loss * (weights.gradient_scale if counts else 0.0)).backward()
        if counts:
            seen.append(part)
            for name, value in zip(losses, found, strict=True):
                losses[name] += value
    if ran is not None:
        _through_prompts(ran, shared)
    return _concatenated(seen), losses


def _part(
    weights: Weights,
    batch: Batch,
    rows: Tensor,
    terms: TermWeights,
    prompts: PromptStates | None,
    prompt_of_row: Tensor | None,
    spikes: Spikes | None,
) -> tuple[Tensor, list[float], Replay]:
    """The weighted loss of some rows, with gradient; the two terms of it without weights; their replay."""
    rollout, advantages = batch.rollout.take(rows), batch.advantages[rows]
    if prompts is None:
        distinct, of_row = rollout.prompts()
        prompts = weights.policy.prompt_states(distinct)
    else:
        of_row = prompt_of_row[rows]
    seen = replay(
        weights.policy,
        batch.thought,
        rollout,
        answer_temperature=batch.answer_temperature,
        prompts=prompts,
        prompt_of_row=of_row,
        expected=expected_gradient(advantages, batch.total_rows, terms),
        spikes=spikes,
    )
    found = policy_terms(seen, advantages, batch.total_rows)
    # a term of weight 0 is left out, not multiplied: 0 * inf would be NaN
    weighted = [w * t for w, t in zip((terms.thought, terms.answer), found, strict=True) if w]
    loss = sum(weighted, start=torch.zeros((), device=advantages.device))
    return loss, [float(t.detach()) for t in found], _detached(seen)


def _in_step(weights: Weights, parts: list[Tensor]) -> list[tuple[Tensor, bool]]:
    """The parts, and whether they count: where processes must keep step, those with fewer parts run their first again
    for nothing."""
    wanted = max(weights.world.gather(len(parts))) if weights.in_step else len(parts)
    return [(part, True) for part in parts] + [(parts[0], False)] * (wanted - len(parts))


def _parts(rollout: Rollout, tokens: int) -> list[Tensor]:
    """Consecutive rows that fit the budget when padded to the longest of them."""
    lengths = (rollout.lengths - rollout.prompt_lengths).tolist()
    parts, start = [], 0
    for row in range(1, rollout.rows + 1):
        if row == rollout.rows or (row + 1 - start) * max(lengths[start : row + 1]) > tokens:
            parts.append(torch.arange(start, row, device=rollout.ids.device))
            start = row
    return parts


def _through_prompts(ran: PromptStates, leaves: PromptStates) -> None:
    """Take what arrived at the prompts' states back through the prompts."""
    pairs = zip(ran.tensors, (leaf.grad for leaf in leaves.tensors), strict=True)
    reached = [(x, g) for x, g in pairs if x.requires_grad and g is not None]
    if reached:
        torch.autograd.backward(*zip(*reached, strict=True))


def _detached(part: Replay) -> Replay:
    return Replay(**{f.name: getattr(part, f.name).detach() for f in dataclasses.fields(part)})


def _concatenated(parts: list[Replay]) -> Replay:
    return Replay(**{f.name: _stack([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(Replay)})


def _stack(parts: list[Tensor]) -> Tensor:
    """Rows of tensors [rows, steps] whose steps differ, with zeros (False) at the end of the shorter ones."""
    steps = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, steps - part.shape[1])) for part in parts])
