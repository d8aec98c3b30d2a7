"""KL divergence between the thoughts of two models at the same step.

    with torch.no_grad():
        reference = thought.at(reference_hidden, reference_vocabulary)
    penalty = kl(thought.at(hidden, vocabulary), reference)          # nats, [rows], differentiable

A family registers its closed form with `@register(P, Q)`; pairs without one are estimated from samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from softtokens.ops.mixture import tempered_log_softmax
from softtokens.ops.random import StepKeys
from softtokens.thoughts.base import ThoughtDistribution
from softtokens.thoughts.gaussian import GaussianDistribution
from softtokens.thoughts.hard import HardDistribution
from softtokens.thoughts.perturbed import PerturbedDistribution

P = TypeVar("P", bound=ThoughtDistribution)
Q = TypeVar("Q", bound=ThoughtDistribution)
_CLOSED_FORMS: dict[tuple[type, type], Callable[..., Tensor]] = {}


def register(p: type[P], q: type[Q]) -> Callable[[Callable[[P, Q], Tensor]], Callable[[P, Q], Tensor]]:
    """Decorates the closed form of KL(p || q) for two kinds of distributions."""

    def add(closed_form: Callable[[P, Q], Tensor]) -> Callable[[P, Q], Tensor]:
        _CLOSED_FORMS[p, q] = closed_form
        return closed_form

    return add


def kl(p: ThoughtDistribution, q: ThoughtDistribution, keys: StepKeys | None = None) -> Float[Tensor, "rows"]:
    """KL(p || q) in nats; differentiable in both where there is a closed form.

    Without one, log p - log q at one sample of p, which has the right mean; its gradient with respect to p is not that
    of the divergence. keys: of that sample. ValueError when they are needed and missing.
    """
    closed_form = _CLOSED_FORMS.get((type(p), type(q)))
    if closed_form is not None:
        return closed_form(p, q)
    if keys is None:
        raise ValueError(f"no closed form of KL({type(p).__name__} || {type(q).__name__}); give keys to sample it")
    return sampled_kl(p, q, keys)


def sampled_kl(p: ThoughtDistribution, q: ThoughtDistribution, keys: StepKeys) -> Float[Tensor, "rows"]:
    """log p(x) - log q(x) at a sample x of p: an unbiased estimate of KL(p || q)."""
    value = p.sample(keys)
    return p.log_prob(value) - q.log_prob(value)


@register(HardDistribution, HardDistribution)
def _of_tokens(p: HardDistribution, q: HardDistribution) -> Tensor:
    if not p.temperature or not q.temperature:
        raise ValueError("temperature is 0: arg-max tokens have no divergence; use a positive temperature")
    log_p, log_q = (tempered_log_softmax(d.logits, d.temperature) for d in (p, q))
    is_masked = log_p == float("-inf")  # unused vocabulary rows, the same in both
    log_p, log_q = (log_prob.masked_fill(is_masked, 0.0) for log_prob in (log_p, log_q))
    return (log_p.exp() * (log_p - log_q)).masked_fill(is_masked, 0.0).sum(-1)


@register(GaussianDistribution, GaussianDistribution)
def _of_mixtures(p: GaussianDistribution, q: GaussianDistribution) -> Tensor:
    return _of_normals(p.mean, p.thought.sigma, q.mean, q.thought.sigma)


@register(PerturbedDistribution, PerturbedDistribution)
def _of_perturbed(p: PerturbedDistribution, q: PerturbedDistribution) -> Tensor:
    """Infinite where the noise is on other logits, as the two share no value there."""
    same_place = type(p.thought) is type(q.thought) and (p.support is None) == (q.support is None)
    if not same_place or p.location.shape != q.location.shape:
        raise ValueError(f"{p.thought} and {q.thought} have noise in different places; their values do not compare")
    if p.support is None or q.support is None:
        return _of_normals(p.location, p.thought.sigma, q.location, q.thought.sigma)
    same = (p.support.sort(-1).values == q.support.sort(-1).values).all(-1)
    divergence = _of_normals(p.location, p.thought.sigma, q.logits.gather(-1, p.support), q.thought.sigma)
    return divergence.masked_fill(~same, float("inf"))


def _of_normals(
    mean_p: Float[Tensor, "rows event"], sigma_p: float, mean_q: Float[Tensor, "rows event"], sigma_q: float
) -> Float[Tensor, "rows"]:
    """KL of isotropic normals: log(s_q / s_p) + (s_p^2 / s_q^2 - 1) / 2 per coordinate, and the means' distance."""
    if not sigma_p or not sigma_q:
        raise ValueError("sigma is 0: noise-free thoughts have no divergence; use sigma > 0")
    ratio = torch.as_tensor(sigma_p / sigma_q, dtype=mean_p.dtype, device=mean_p.device)
    by_width = mean_p.shape[-1] * (0.5 * (ratio.square() - 1) - ratio.log())
    return (mean_p - mean_q).square().sum(-1) / (2 * sigma_q**2) + by_width
