"""Isotropic normal densities, and the estimator that replays the stored noise.

The log-density of x ~ N(m(theta), sigma^2 I) at x = m + sigma eps has the score eps . grad m / sigma. Two expressions
have that gradient at the sampling parameters: the density of the stored x, and eps . m(theta) / sigma with the stored
eps. They part when trainer and sampler disagree by rounding: moving 1 % of probability between two tokens moves a
mixture by about 2.4 sigma at dim 3072, so (x - m) / sigma is no longer eps, while the replayed eps stays what it was.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from softtokens.ops.random import StepKeys

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def log_density(
    value: Float[Tensor, "rows event"], mean: Float[Tensor, "rows event"], sigma: float
) -> Float[Tensor, "rows"]:
    """log N(value; mean, sigma^2 I) in nats; `value` is data."""
    standard = (value.detach() - mean) / sigma
    return log_density_of_noise(standard, sigma)


def replayed_score(
    noise: Float[Tensor, "rows event"], mean: Float[Tensor, "rows event"], sigma: float
) -> Float[Tensor, "rows"]:
    """A surrogate: its gradient is noise . grad mean / sigma, its value the log-density when it was drawn."""
    noise = noise.to(mean.dtype)
    moved = (noise * (mean - mean.detach())).sum(-1) / sigma  # zero in value, the score in gradient
    return log_density_of_noise(noise, sigma) + moved


def gradient_of_replayed(
    noise: Float[Tensor, "rows event"], upstream: Float[Tensor, "rows"], sigma: float
) -> Float[Tensor, "rows event"]:
    """Gradient of `replayed_score` with respect to the mean. Equals autograd's to the last bit."""
    return (upstream / sigma)[:, None] * noise.to(upstream.dtype)


def divergence(
    mean: Float[Tensor, "rows event"],
    value: Float[Tensor, "rows event"],
    noise: Float[Tensor, "rows event"],
    sigma: float,
) -> Float[Tensor, "rows"]:
    """KL in nats between the normal that `value` was drawn from with `noise`, and the normal around `mean`."""
    sampled_mean = value - sigma * noise.to(mean.dtype)
    return (mean - sampled_mean).square().sum(-1) / (2 * sigma**2)


def log_density_of_noise(standard: Float[Tensor, "rows event"], sigma: float) -> Float[Tensor, "rows"]:
    """The log-density of mean + sigma * standard."""
    constant = -standard.shape[-1] * (math.log(sigma) + _HALF_LOG_TWO_PI)
    return -0.5 * standard.square().sum(-1) + constant


def entropy(event_size: int, sigma: float, like: Float[Tensor, "rows _"]) -> Float[Tensor, "rows"]:
    """Differential entropy of N(., sigma^2 I) in nats, one per row of `like`."""
    return torch.full_like(like[:, 0], event_size * (0.5 + math.log(sigma) + _HALF_LOG_TWO_PI))


def require_noise(sigma: float) -> None:
    """Raise ValueError if sigma is 0: a thought without noise has no density and nothing to learn from."""
    if sigma == 0:
        raise ValueError("sigma is 0: a noise-free thought has no density; sample with sigma > 0 to train")


def perturb(
    location: Float[Tensor, "rows event"], sigma: float, keys: StepKeys
) -> tuple[Float[Tensor, "rows event"], Float[Tensor, "rows"]]:
    """location + sigma eps, and its log-density. Without noise: the location itself, and 0."""
    if sigma == 0:
        return location, torch.zeros_like(location[:, 0])
    noise = keys.normal(location.shape[-1]).to(location.dtype)
    return location + sigma * noise, log_density_of_noise(noise, sigma)
