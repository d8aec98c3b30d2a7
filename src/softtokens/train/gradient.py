"""The gradient of a batch of rollouts, in parts that fit in memory, with the two terms apart where asked."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from softtokens.models.policy import Policy
from softtokens.rollout.record import Rollout
from softtokens.rollout.replay import Replay, replay
from softtokens.thoughts import Thought
from softtokens.train.loss import policy_terms


@dataclasses.dataclass(frozen=True)
class TermWeights:
    """Weights of the thought and the answer term; 1 and 1 is the paper, 0 and 1 the answer-only control."""

    thought: float = 1.0
    answer: float = 1.0


def accumulate_gradient(
    policy: Policy,
    parameters: list[Tensor],
    thought: Thought,
    rollout: Rollout,
    advantages: Tensor,
    weights: TermWeights,
    *,
    answer_temperature: float = 1.0,
    rows_per_backward: int = 64,
    apart: bool = False,
    clip_each: float | None = None,
) -> tuple[Replay, dict[str, float]]:
    """Write the gradient of the loss into `.grad` of the parameters.

    apart: measure the (weighted) terms' gradient norms, which takes a backward pass for each. clip_each: scale each
    term's gradient down to this norm before adding them. Returns the replay without gradient, and the losses and norms.
    """
    gradients = [[torch.zeros_like(p) for p in parameters] for _ in range(2 if apart else 1)]
    losses = {"loss/thought": 0.0, "loss/answer": 0.0}
    seen: list[Replay] = []
    for start in range(0, rollout.rows, rows_per_backward):
        rows = torch.arange(start, min(start + rows_per_backward, rollout.rows), device=advantages.device)
        part = replay(policy, thought, rollout.take(rows), answer_temperature=answer_temperature)
        terms = policy_terms(part, advantages[rows], rollout.rows)
        losses["loss/thought"] += float(terms[0].detach())
        losses["loss/answer"] += float(terms[1].detach())
        # a term of weight 0 is left out, not multiplied: 0 * inf would be NaN
        weighted = [w * t if w else 0 for w, t in zip((weights.thought, weights.answer), terms, strict=True)]
        if not apart:
            weighted = [sum(weighted)]
        for i, (total, loss) in enumerate(zip(gradients, weighted, strict=True)):
            _add_gradient(total, loss, parameters, keep_graph=i + 1 < len(gradients))
        seen.append(_detached(part))
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


def _add_gradient(total: list[Tensor], loss: Tensor | int, parameters: list[Tensor], *, keep_graph: bool) -> None:
    if not torch.is_tensor(loss) or not loss.requires_grad:
        return  # both weights are 0, or there are no such steps
    for sum_so_far, g in zip(
        total, torch.autograd.grad(loss, parameters, retain_graph=keep_graph, allow_unused=True), strict=True
    ):
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
