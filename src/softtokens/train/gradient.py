"""The gradient of a batch of rollouts, in parts that fit in memory, with the two terms apart where asked."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from softtokens.models.policy import Policy
from softtokens.models.prefix import PromptStates
from softtokens.rollout.record import Rollout
from softtokens.rollout.replay import Replay, replay
from softtokens.thoughts import Thought
from softtokens.train.loss import TermWeights, expected_gradient, policy_terms

# On the CPU activations should be reused before they leave the caches: all rows at once are three times slower.
TOKENS_PER_BACKWARD = {"cpu": 1 << 10, "cuda": 1 << 14}


def accumulate_gradient(
    policy: Policy,
    parameters: list[Tensor],
    thought: Thought,
    rollout: Rollout,
    advantages: Tensor,
    weights: TermWeights,
    *,
    answer_temperature: float = 1.0,
    tokens_per_backward: int | None = None,
    apart: bool = False,
    clip_each: float | None = None,
) -> tuple[Replay, dict[str, float]]:
    """Write the gradient of the loss into `.grad` of the parameters.

    Each prompt runs once. Its rollouts run in parts of at most `tokens_per_backward` positions (padding included, one
    row at least); the gradient with respect to the prompt's keys and values is summed over the parts and taken back
    through the prompt at the end. Rows should be sorted by length, then little is padding.
    apart: measure the (weighted) terms' gradient norms, which takes a backward pass for each. clip_each: scale each
    term's gradient down to this norm before adding them. Returns the replay without gradient, and the losses and norms.
    """
    prompts, prompt_of_row = rollout.prompts()
    ran = policy.prompt_states(prompts)
    shared = ran.as_leaves()
    leaves = parameters + shared.tensors
    gradients = [[torch.zeros_like(p) for p in leaves] for _ in range(2 if apart else 1)]
    losses = {"loss/thought": 0.0, "loss/answer": 0.0}
    seen: list[Replay] = []
    for rows in _parts(rollout, tokens_per_backward or TOKENS_PER_BACKWARD[policy.device.type]):
        part = replay(
            policy,
            thought,
            rollout.take(rows),
            answer_temperature=answer_temperature,
            prompts=shared,
            prompt_of_row=prompt_of_row[rows],
            expected=expected_gradient(advantages[rows], rollout.rows, weights),
        )
        terms = policy_terms(part, advantages[rows], rollout.rows)
        losses["loss/thought"] += float(terms[0].detach())
        losses["loss/answer"] += float(terms[1].detach())
        # a term of weight 0 is left out, not multiplied: 0 * inf would be NaN
        weighted = [w * t if w else 0 for w, t in zip((weights.thought, weights.answer), terms, strict=True)]
        if not apart:
            weighted = [sum(weighted)]
        for i, (total, loss) in enumerate(zip(gradients, weighted, strict=True)):
            _add_gradient(total, loss, leaves, keep_graph=i + 1 < len(gradients))
        seen.append(_detached(part))
    gradients = [
        _through_prompts(total, ran, parameters, keep_graph=i + 1 < len(gradients)) for i, total in enumerate(gradients)
    ]
    norms = {}
    if apart:
        sizes = [_norm(g) for g in gradients]
        norms = {"grad_norm/thought": float(sizes[0]), "grad_norm/answer": float(sizes[1])}
        if clip_each:
            for total, size in zip(gradients, sizes, strict=True):
                torch._foreach_mul_(total, min(1.0, clip_each / (float(size) + 1e-6)))
    for i, parameter in enumerate(parameters):
        parameter.grad = sum(total[i] for total in gradients)
    return _concatenated(seen), losses | norms


def _parts(rollout: Rollout, tokens: int) -> list[Tensor]:
    """Consecutive rows that fit the budget when padded to the longest of them."""
    lengths = (rollout.lengths - rollout.prompt_lengths).tolist()
    parts, start = [], 0
    for row in range(1, rollout.rows + 1):
        if row == rollout.rows or (row + 1 - start) * max(lengths[start : row + 1]) > tokens:
            parts.append(torch.arange(start, row, device=rollout.ids.device))
            start = row
    return parts


def _through_prompts(
    total: list[Tensor], ran: PromptStates, parameters: list[Tensor], *, keep_graph: bool
) -> list[Tensor]:
    """Gradient of the parameters alone, with what arrived at the prompts' states taken back through the prompts."""
    of_parameters, of_states = total[: len(parameters)], total[len(parameters) :]
    outputs = [(x, g) for x, g in zip(ran.tensors, of_states, strict=True) if x.requires_grad]
    if outputs:
        states, upstream = zip(*outputs, strict=True)
        found = torch.autograd.grad(states, parameters, upstream, retain_graph=keep_graph, allow_unused=True)
        _add(of_parameters, found)
    return of_parameters


def _add_gradient(total: list[Tensor], loss: Tensor | int, leaves: list[Tensor], *, keep_graph: bool) -> None:
    if torch.is_tensor(loss) and loss.requires_grad:  # else both weights are 0, or there are no such steps
        _add(total, torch.autograd.grad(loss, leaves, retain_graph=keep_graph, allow_unused=True))


def _add(total: list[Tensor], gradient: tuple[Tensor | None, ...]) -> None:
    for sum_so_far, g in zip(total, gradient, strict=True):
        if g is not None:
            sum_so_far += g


def _norm(gradient: list[Tensor]) -> Tensor:
    return torch.nn.utils.get_total_norm(gradient)


def _detached(part: Replay) -> Replay:
    return Replay(**{f.name: getattr(part, f.name).detach() for f in dataclasses.fields(part)})


def _concatenated(parts: list[Replay]) -> Replay:
    return Replay(**{f.name: _stack([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(Replay)})


def _stack(parts: list[Tensor]) -> Tensor:
    """Rows of tensors [rows, steps] whose steps differ, with zeros (False) at the end of the shorter ones."""
    steps = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, steps - part.shape[1])) for part in parts])
