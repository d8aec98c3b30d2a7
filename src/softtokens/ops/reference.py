"""The obvious versions, in float64 and without chunks: the truth that the tests compare with."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mixture(hidden: Tensor, head: Tensor, table: Tensor, tau: float) -> Tensor:
    """mu = softmax(h W^T / tau) E."""
    return torch.softmax(hidden.double() @ head.double().T / tau, dim=-1) @ table.double()


def token_log_prob(hidden: Tensor, head: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    logits = hidden.double() @ head.double().T / temperature
    return torch.log_softmax(logits, dim=-1).gather(-1, tokens[:, None])[:, 0]


def gaussian_log_prob(value: Tensor, mean: Tensor, sigma: float) -> Tensor:
    """log N(value; mean, sigma^2 I), summed over the last axis."""
    value, mean = value.double(), mean.double()
    constant = -value.shape[-1] * (math.log(sigma) + 0.5 * math.log(2 * math.pi))
    return -((value - mean) ** 2).sum(-1) / (2 * sigma**2) + constant
