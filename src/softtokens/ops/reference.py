"""Plain versions in float64 and without chunks: the ground truth of the tests."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def mixture(
    hidden: Float[Tensor, "rows dim"], head: Float[Tensor, "vocab dim"], table: Float[Tensor, "vocab dim"], tau: float
) -> Float[Tensor, "rows dim"]:
    """mu = softmax(h W^T / tau) E."""
    return torch.softmax(hidden.double() @ head.double().T / tau, dim=-1) @ table.double()


def token_log_prob(
    hidden: Float[Tensor, "rows dim"], head: Float[Tensor, "vocab dim"], tokens: Int[Tensor, "rows"], temperature: float
) -> Float[Tensor, "rows"]:
    logits = hidden.double() @ head.double().T / temperature
    return torch.log_softmax(logits, dim=-1).gather(-1, tokens[:, None])[:, 0]


def gaussian_log_prob(
    value: Float[Tensor, "rows dim"], mean: Float[Tensor, "rows dim"], sigma: float
) -> Float[Tensor, "rows"]:
    """log N(value; mean, sigma^2 I), summed over the last axis."""
    value, mean = value.double(), mean.double()
    constant = -value.shape[-1] * (math.log(sigma) + 0.5 * math.log(2 * math.pi))
    return -((value - mean) ** 2).sum(-1) / (2 * sigma**2) + constant
