"""pass@k and maj@k without bias, from n >= k samples of each problem. Numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

MAX_VOTERS = 512  # at 1,000 a problem takes seconds, and beyond that binomial coefficients overflow float64
Votes = Sequence[tuple[int, bool]]  # per answer to one problem: (number of samples that gave it, whether it is right)


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


def maj_at_k(votes_P: Sequence[Votes], samples: int, ks: Sequence[int]) -> np.ndarray:
    """Per problem and k, the chance that the most frequent answer among k draws without replacement is right.

    The mean over all subsets of size k, exactly. Ties are broken by lot among the answers in front. Samples without an
    answer do not vote; where nobody votes the vote is wrong. Returns float64 [problems, ks]. ValueError when a k is
    beyond the samples, or samples beyond MAX_VOTERS.
    """
    for k in ks:
        if not 1 <= k <= samples:
            raise ValueError(f"k is {k}, with {samples} samples per problem; it must be in 1 .. {samples}")
    if samples > MAX_VOTERS:
        raise ValueError(f"samples is {samples}; maj@k is computed for up to {MAX_VOTERS}")
    subsets = np.array([float(math.comb(samples, k)) for k in ks])
    return np.array([_winning_subsets(votes, samples)[list(ks)] / subsets for votes in votes_P])


def _winning_subsets(votes: Votes, samples: int) -> np.ndarray:
    """How many subsets of each size 0..samples a right answer wins; won in a tie of t it counts 1 / t."""
    counts = [count for count, _ in votes]
    if min(counts, default=1) < 1 or sum(counts) > samples:
        raise ValueError(f"votes {votes} do not fit {samples} samples")
    won = np.zeros(samples + 1)
    for place, (count, right) in enumerate(votes):
        others = counts[:place] + counts[place + 1 :]
        for votes_for_it in range(1, count + 1) if right else ():
            ways = math.comb(count, votes_for_it) * _others_behind(others, votes_for_it, samples - count)
            won[votes_for_it : votes_for_it + len(ways)] += ways
    return won


def _others_behind(others: Sequence[int], most: int, voters: int) -> np.ndarray:
    """Ways to choose s of the other samples so that no other answer gets more than `most`, for s = 0..voters; a choice
    in which t answers reach it counts 1 / (1 + t).

    A product of one polynomial per answer, in s (columns) and t (rows). Answers that cannot reach `most`, and samples
    without an answer, are free: together they are one binomial.
    """
    rivals = [count for count in others if count >= most]
    free = voters - sum(rivals)
    others_free = np.array([float(math.comb(free, s)) for s in range(free + 1)])
    if most == 1:  # every rival drawn ties, so columns equal rows; this is the case in which all answers differ
        tied = np.eye(1, len(rivals) + 1)[0]
        for count in rivals:
            tied[1:] += count * tied[:-1]
        return np.convolve(tied / (1.0 + np.arange(len(tied))), others_free)
    ways = np.zeros((len(rivals) + 1, voters + 1))
    ways[0, : free + 1] = others_free
    for count in rivals:
        grown = np.zeros_like(ways)
        for s in range(most):
            grown[:, s:] += math.comb(count, s) * ways[:, : voters + 1 - s]
        grown[1:, most:] += math.comb(count, most) * ways[:-1, : voters + 1 - most]
        ways = grown
    return (ways / (1.0 + np.arange(len(rivals) + 1))[:, None]).sum(axis=0)


def ks_up_to(samples: int) -> list[int]:
    """1, 2, 4, ... up to the number of samples, which is always included: what a curve over k is drawn from."""
    ks = [1 << i for i in range(samples.bit_length()) if 1 << i <= samples]
    return ks if ks[-1] == samples else [*ks, samples]
