"""Intervals for a mean over problems, and for a difference of two means. Numpy only.

The problems are treated as a sample of their kind; other training seeds are not covered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

LEVEL = 0.95
_RESAMPLES = 10_000
_SEED = 20250919  # fixed: the same values give the same interval and p-value
_ELEMENTS = 1 << 21  # per chunk of resamples
_EXACT_FLIPS = 13  # up to this many differing problems, all 2^n sign flips are enumerated


def bootstrap_interval(
    values: np.ndarray, weights: np.ndarray | None = None, level: float = LEVEL
) -> tuple[float, float]:
    """Interval of the (weighted) mean, resampling problems: float64 [problems], or the intervals of each column.

    The expanded percentile interval (Hesterberg, arXiv 1411.5279): the plain percentiles are too narrow
    for few problems, by sqrt((n - 1) / n) and by the normal in the place of Student's quantile; the levels are moved
    to make up for both.
    """
    values = np.asarray(values, dtype=np.float64)
    tail = _expanded_tail(len(values), level)
    means = _resampled_means(values, weights)
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return (low, high) if values.ndim == 2 else (float(low), float(high))


def estimates(values: np.ndarray, weights: np.ndarray | None = None, *, shares: bool = False) -> list[dict[str, Any]]:
    """Of each column of [problems, columns] the mean and its 95 % interval: {"value", "low", "high"}.

    shares: the values are in 0 .. 1. Where all are 0 (or all 1) resampling sees no spread, and the far end is the exact
    binomial bound, 1 - 0.025^(1/n): the mean is at most the share of problems that are not 0. A single problem has no
    interval: None.
    """
    values = np.asarray(values, dtype=np.float64)
    means = np.average(values, axis=0, weights=weights)
    if len(values) < 2:
        return [{"value": float(mean), "low": None, "high": None} for mean in means]
    lows, highs = map(np.asarray, bootstrap_interval(values, weights))
    intervals = []
    for column, mean, low, high in zip(values.T, means, lows, highs, strict=True):
        unseen = unseen_share(len(column))
        if shares and (column == 0).all():
            low, high = 0.0, unseen
        elif shares and (column == 1).all():
            low, high = 1 - unseen, 1.0
        intervals.append({"value": float(mean), "low": float(low), "high": float(high)})
    return intervals


def estimate(values: np.ndarray, weights: np.ndarray | None = None, *, shares: bool = False) -> dict[str, Any]:
    """The mean of one value per problem and its interval, as `estimates`."""
    return estimates(np.asarray(values, dtype=np.float64)[:, None], weights, shares=shares)[0]


def paired_difference(a: np.ndarray, b: np.ndarray, *, shares: bool = False) -> dict[str, Any]:
    """Mean of a - b over the same problems, its 95 % interval, and the p-value of a sign-flip test.

    Keys value, low, high, p, problems, and differing: how many problems tell the two apart. shares: a and b are in
    0 .. 1. Where no problem differs, resampling sees no spread; the interval is then the exact binomial bound on the
    share of problems that would, to both sides. ValueError when a value is not finite.
    """
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    differing = int((difference != 0).sum())
    interval = estimate(difference)
    if shares and differing == 0 and len(difference) > 1:
        unseen = unseen_share(len(difference))
        interval |= {"low": -unseen, "high": unseen}
    return {**interval, "p": sign_flip_p(difference), "problems": len(difference), "differing": differing}


def unseen_share(problems: int) -> float:
    """The largest share that this many problems may plausibly all have missed: 1 - 0.025^(1/n)."""
    return 1 - ((1 - LEVEL) / 2) ** (1 / problems)


def sign_flip_p(difference: np.ndarray) -> float:
    """Two-sided p-value of "the two are interchangeable": how often the mean is as far from 0 when the sign of each
    problem's difference is drawn by lot. For 0/1 values this is McNemar's test. Up to 13 differing problems exactly,
    beyond that by 10,000 draws: (1 + as far) / (1 + draws), never 0. ValueError when a difference is not finite: no
    comparison with NaN is true, so it would look as if nothing were as far.
    """
    difference = np.asarray(difference, dtype=np.float64)
    if not np.isfinite(difference).all():
        raise ValueError("a difference is not finite; leave out what could not be measured")
    difference = difference[difference != 0]
    n = len(difference)
    if n == 0:
        return 1.0
    bound = abs(difference.sum()) * (1 - 1e-12)  # sums in another order differ by rounding
    if n <= _EXACT_FLIPS:
        signs = 1 - 2 * ((np.arange(1 << n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ difference) >= bound).mean())
    random = np.random.default_rng(_SEED)
    as_far = 0
    for rows in _chunks(n):
        signs = random.integers(0, 2, size=(rows, n), dtype=np.int8) * 2.0 - 1.0
        as_far += int((np.abs(signs @ difference) >= bound).sum())
    return (1 + as_far) / (1 + _RESAMPLES)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979). Values below 0.05 are all true findings in at least 95 % of
    cases."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def _resampled_means(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """[resamples, *columns]. With weights each resample's mean is weighted by those of its problems."""
    random = np.random.default_rng(_SEED)
    means = []
    for rows in _chunks(values.size):
        drawn = random.integers(0, len(values), size=(rows, len(values)))
        if weights is None:
            means.append(values[drawn].mean(axis=1))
        else:
            weight = np.asarray(weights, dtype=np.float64)[drawn]
            weight = weight.reshape(*weight.shape, *[1] * (values.ndim - 1))
            means.append((values[drawn] * weight).sum(axis=1) / weight.sum(axis=1))
    return np.concatenate(means)


def _chunks(size: int) -> list[int]:
    rows = max(1, min(_RESAMPLES, _ELEMENTS // max(size, 1)))
    return [min(rows, _RESAMPLES - start) for start in range(0, _RESAMPLES, rows)]


def _expanded_tail(n: int, level: float) -> float:
    normal = NormalDist()
    return normal.cdf(-math.sqrt(n / (n - 1)) * student_quantile((1 + level) / 2, n - 1)) if n > 1 else (1 - level) / 2


def student_quantile(p: float, degrees: int) -> float:
    """Quantile of Student's t by its expansion in 1 / degrees (Abramowitz and Stegun 26.7.5): at 0.975 within 0.1 %
    from 4 degrees on. Fewer are treated as 4."""
    z, v = NormalDist().inv_cdf(p), max(degrees, 4)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )
