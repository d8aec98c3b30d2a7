"""Do 95 % intervals cover 95 %? And do p-values below 0.05 come in 5 %? On made-up evaluations of known truth.

    python benchmarks/evaluation/coverage.py [--sets 2000]

A population of problems with chances of success from a distribution; each data set draws problems, n samples of each,
and asks for the interval of pass@k. The truth is the mean over the population. "plain" is the percentile interval as it
is usually computed. The standard error of a share of 2,000 data sets is 0.5 % at 95 %.
"""

from __future__ import annotations

import argparse

import numpy as np

from softtokens.evaluate import intervals
from softtokens.evaluate.intervals import estimate, paired_difference
from softtokens.evaluate.passk import pass_at_k

# what the chances of success are like: many tasks have problems that are nearly always or nearly never solved
POPULATIONS = {
    "even (beta 1, 1)": (1.0, 1.0),
    "two camps (beta 0.3, 0.5)": (0.3, 0.5),
    "hard (beta 0.3, 3)": (0.3, 3.0),
}
SIZES = ((30, 1, 1), (30, 32, 1), (30, 32, 32), (128, 32, 1), (128, 32, 32), (500, 4, 1))  # problems, samples, k


def covered(random: np.random.Generator, shape: tuple[float, float], problems: int, samples: int, k: int) -> tuple:
    """Whether ours, and the plain percentile interval, hold the truth of one data set."""
    chances = random.beta(*shape, size=problems)
    values = pass_at_k(random.binomial(samples, chances), samples, k)
    truth = mean_pass_at_k(shape, k)
    ours = estimate(values, shares=True)
    means = values[random.integers(0, problems, size=(1000, problems))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return ours["low"] <= truth <= ours["high"], low <= truth <= high


def mean_pass_at_k(shape: tuple[float, float], k: int) -> float:
    """1 - E (1 - p)^k for p of a beta distribution."""
    a, b = shape
    return 1.0 - float(np.prod((b + np.arange(k)) / (a + b + np.arange(k))))


def coverage(sets: int) -> None:
    print(f"{'chances':<28}{'problems':>9}{'samples':>9}{'k':>4}{'covered':>10}{'plain':>8}")
    for name, shape in POPULATIONS.items():
        for problems, samples, k in SIZES:
            random = np.random.default_rng(0)
            ours, plain = np.mean([covered(random, shape, problems, samples, k) for _ in range(sets)], axis=0)
            print(f"{name:<28}{problems:>9}{samples:>9}{k:>4}{100 * ours:>9.1f}%{100 * plain:>7.1f}%", flush=True)


def false_alarms(sets: int) -> None:
    """Pairs of models that do not differ, and pairs that differ by a known amount."""
    print("\npaired difference of two models: coverage of its interval, and share of p < 0.05")
    print(f"{'truth':<28}{'problems':>9}{'samples':>9}{'covered':>10}{'p < 0.05':>10}")
    for name, gain in (("no difference", 0.0), ("0.1 of what is left", 0.1)):
        for problems, samples in ((30, 1), (30, 32), (128, 32)):
            random = np.random.default_rng(0)
            hits, alarms = 0, 0
            for _ in range(sets):
                base = random.beta(0.3, 0.5, size=problems)
                trained = base + gain * (1 - base)
                a, b = (random.binomial(samples, p) / samples for p in (trained, base))
                interval = paired_difference(a, b)
                hits += interval["low"] <= gain * (1 - 0.3 / 0.8) <= interval["high"]
                alarms += interval["p"] < 0.05
            row = f"{name:<28}{problems:>9}{samples:>9}{100 * hits / sets:>9.1f}%{100 * alarms / sets:>9.1f}%"
            print(row, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=2000)
    sets = parser.parse_args().sets
    intervals._RESAMPLES = 1000  # 10,000 change the shares by less than their standard error and take ten times as long
    coverage(sets)
    false_alarms(sets)
