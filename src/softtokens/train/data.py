"""Which problems a step trains on: a function of the seed and the step, so a resumed run needs no position."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence

from softtokens.types import Problem


def problems_of_step(problems: Sequence[Problem], step: int, count: int, seed: int) -> list[tuple[Problem, int]]:
    """`count` problems for step 0, 1, ..., each with the number of times it was visited before.

    Every epoch is a new permutation; a step may reach from one epoch into the next.
    """
    chosen = []
    for place in range(step * count, (step + 1) * count):
        epoch, position = divmod(place, len(problems))
        chosen.append((problems[_permutation(len(problems), seed, epoch)[position]], epoch))
    return chosen


@functools.lru_cache(maxsize=2)
def _permutation(size: int, seed: int, epoch: int) -> list[int]:
    return random.Random(f"{seed}/{epoch}").sample(range(size), size)
