"""Signal and noise of a gradient, from the inner products of independent estimates of it.

The gradient of batch i is g_i = G + noise of covariance Sigma / rows, with rows rollouts in a batch. Without bias:

    |G|^2             ~  signal = mean of <g_i, g_j> over pairs of different batches
    tr(Sigma) / rows  ~  noise  = mean of |g_i|^2 - signal

and the noise scale tr(Sigma) / |G|^2 (McCandlish et al., arXiv 1812.06162) is the number of rollouts at which the two
are equal. Errors are by the jackknife: everything again without one of the batches.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor

from softtokens.config.signal import FEWEST_BATCHES


@dataclasses.dataclass(frozen=True)
class Estimate:
    """norm: median over batches. cosine: mean over pairs of batches; a gradient of 0 agrees with none. signal: of a
    batch; noise: of one rollout. noise_scale, in rollouts, with low and high, its 95 % interval: where the signal is
    not above its margin noise_scale and high are None, and low is what it is more than; low is None too where too few
    of the batches have a gradient."""

    norm: float
    cosine: float
    cosine_error: float
    signal: float
    noise: float
    noise_scale: float | None
    low: float | None
    high: float | None

    @property
    def is_zero(self) -> bool:
        """No batch has a gradient."""
        return self.signal == self.noise == 0


def estimate(gram: Tensor, rows: int) -> Estimate:
    """gram: float64 [batches, batches], inner products of the gradients of batches of `rows` rollouts each."""
    batches = len(gram)
    if batches < FEWEST_BATCHES:
        raise ValueError(f"there are {batches} batches; the jackknife needs at least {FEWEST_BATCHES}")
    squares = gram.diagonal()
    norms = squares.clamp(min=0).sqrt()
    lengths = norms[:, None] * norms
    cosine, cosines_without = _of_pairs(torch.where(lengths > 0, gram / lengths, 0.0))
    signal, signals_without = _of_pairs(gram)
    squares_without = (squares.sum() - squares) / (batches - 1)
    noise = squares.mean() - signal
    noises_without = squares_without - signals_without
    ratio, error = float(_ratio(signal, noise)), _error(_ratio(signals_without, noises_without))
    scale, low, high = _noise_scale(ratio, error, batches, rows) if squares.any() else (None, None, None)
    return Estimate(
        norm=float(norms.quantile(0.5)),
        cosine=float(cosine),
        cosine_error=_error(cosines_without),
        signal=float(signal),
        noise=float(noise.clamp(min=0)) * rows,
        noise_scale=scale,
        low=low,
        high=high,
    )


def _noise_scale(
    ratio: float, error: float, batches: int, rows: int
) -> tuple[float | None, float | None, float | None]:
    """The noise scale in rollouts, and its interval. ratio: signal over noise of one batch, with its standard error."""
    if math.isinf(ratio):  # every batch has the same gradient
        return 0.0, 0.0, 0.0
    if not math.isfinite(error):  # leaving out some batch leaves no gradient or no noise
        return None, None, None
    margin = student(batches - 1) * error
    if ratio > margin:
        return rows / ratio, rows / (ratio + margin), rows / (ratio - margin)
    # a ratio far below 0 is chance; it must not promise more than the margin alone does
    most = max(ratio + margin, margin / 2)
    return None, rows / most if most > 0 else None, None


def _ratio(signal: Tensor, noise: Tensor) -> Tensor:
    """Infinite where rounding is all the noise there is."""
    return torch.where(noise > 1e-12 * signal.abs(), signal / noise, math.inf)


def _of_pairs(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of a symmetric matrix over pairs of different batches; and the same without each of the batches."""
    batches = len(matrix)
    off = matrix - matrix.diagonal().diag()
    total, of_one = off.sum(), off.sum(0)
    return total / (batches * (batches - 1)), (total - 2 * of_one) / ((batches - 1) * (batches - 2))


def _error(without: Tensor) -> float:
    """Jackknife standard error, from the values without each of the batches."""
    return float((without - without.mean()).square().sum().mul((len(without) - 1) / len(without)).sqrt())


def student(freedom: int) -> float:
    """Student's two-sided 95 % quantile by its expansion around the normal one; within 1 % from 2 degrees on."""
    z = NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    fourth = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + first / freedom + second / freedom**2 + third / freedom**3 + fourth / freedom**4


def gram_of(vectors: Sequence[Tensor], chunk: int = 1 << 18) -> Tensor:
    """Inner products of vectors of equal length in float64, computed `chunk` entries at a time."""
    gram = torch.zeros(len(vectors), len(vectors), dtype=torch.float64)
    for start in range(0, len(vectors[0]), chunk):
        part = torch.stack([vector[start : start + chunk].double() for vector in vectors])
        gram += part @ part.T
    return gram
