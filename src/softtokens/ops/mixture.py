"""Probabilities over the vocabulary, what is drawn from them, and how concentrated they are."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


def tempered_softmax(logits: Tensor, temperature: float) -> Tensor:
    """softmax(logits / temperature). The maximum is subtracted before the division: at temperature 1e-4 a float32
    quotient of raw logits would be off by whole units in the exponent."""
    return torch.softmax(_shifted(logits, temperature), dim=-1)


def tempered_log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return torch.log_softmax(_shifted(logits, temperature), dim=-1)


def _shifted(logits: Tensor, temperature: float) -> Tensor:
    return (logits - logits.detach().amax(dim=-1, keepdim=True)) / temperature


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Tokens by inverting the cumulative distribution: [rows, vocab] and float64 [rows] in [0, 1) to int64 [rows].

    The cumulative sum is float64, so that rare tokens of a large vocabulary keep their share; tokens of probability
    zero are never drawn. FloatingPointError when the probabilities are not numbers.
    """
    cumulative = probabilities.to(torch.float64).cumsum(dim=-1)
    if not bool(cumulative[:, -1].isfinite().all()):
        raise FloatingPointError("the model's logits are not finite; are its weights damaged?")
    target = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


@dataclasses.dataclass(frozen=True)
class Concentration:
    """How soft a distribution over tokens is; float32 [rows] each."""

    entropy: Tensor  # nats, of softmax(logits), temperature 1 whatever the mixture's
    max_weight: Tensor  # largest weight at the mixture's temperature
    effective_support: Tensor  # 1 / sum of squared weights at the mixture's temperature

    @staticmethod
    @torch.no_grad()
    def of(logits: Tensor, temperature: float) -> Concentration:
        """temperature 0 stands for the arg-max token alone."""
        p = tempered_softmax(logits, 1.0)
        # xlogy: rows beyond the tokenizer have p = 0 and add nothing
        entropy = -torch.xlogy(p, p).sum(-1)
        if temperature == 0:
            one = torch.ones_like(entropy)
            return Concentration(entropy, one, one)
        weights = p if temperature == 1.0 else tempered_softmax(logits, temperature)
        return Concentration(entropy, weights.amax(-1), 1.0 / weights.square().sum(-1))
