"""pass@k without bias, and how sure we are of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_RESAMPLES = 10_000
_RESAMPLE_SEED = 20250919  # fixed: the same counts give the same interval
_CHUNK = 500


def pass_at_k(right: Sequence[int] | np.ndarray, samples: int, k: int) -> np.ndarray:
    """Per problem, the chance that at least one of k draws without replacement from its samples is right.

        1 - C(n - c, k) / C(n, k)      (Chen et al., arXiv 2107.03374, eq. 1)

    right: how many of the `samples` of each problem were right. ValueError when k > samples: the first k samples of a
    larger set would be a guess, not an estimate.
    """
    right = np.asarray(right, dtype=np.int64)
    if not 1 <= k <= samples:
        raise ValueError(f"k is {k}, with {samples} samples per problem; it must be in 1 .. {samples}")
    if right.min(initial=0) < 0 or right.max(initial=0) > samples:
        raise ValueError(f"counts of right samples must be in 0 .. {samples}")
    wrong = (samples - right)[:, None]
    drawn = np.arange(k)
    # product over the k draws of the chance that the draw is wrong too; once the wrong ones run out it is 0
    return 1.0 - np.prod(np.clip(wrong - drawn, 0, None) / (samples - drawn), axis=1)


def bootstrap_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean, resampling problems."""
    values = np.asarray(values, dtype=np.float64)
    random = np.random.default_rng(_RESAMPLE_SEED)
    means = [
        values[random.integers(0, len(values), size=(_CHUNK, len(values)))].mean(axis=1)
        for _ in range(_RESAMPLES // _CHUNK)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(a: np.ndarray, b: np.ndarray) -> dict[str, object]:
    """Mean of a - b over the same problems, with its 95 % interval."""
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return {"mean": float(difference.mean()), "interval": bootstrap_interval(difference)}


def ks_up_to(samples: int) -> list[int]:
    """1, 2, 4, ... up to the number of samples, which is always included."""
    ks = [1 << i for i in range(samples.bit_length()) if 1 << i <= samples]
    return ks if ks[-1] == samples else [*ks, samples]
