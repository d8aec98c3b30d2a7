"""How a soft step grows with its sizes, one at a time, and the power of the last doubling."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
from benchmarks.engine.measure import CPU, Row, take_turns
from benchmarks.engine.steps import stepper
from benchmarks.engine.subject import THOUGHTS, Sizes, model_of, policy_of

# attention grows with the square of the thoughts, and at these lengths should be lost beside everything else
MOST_POWER = 1.1
BASE = {"thoughts": 64, "group": 16, "vocabulary": 512, "problems": 2}


def rows(sizes: Sizes) -> Iterator[Row]:
    for what, points in sizes.growth.items():
        competitors = {str(point): _step(sizes, {what: point}) for point in points}
        seconds, busy = take_turns(competitors, CPU, sizes.slow_rounds, warm=True)
        # the first round warms up, others only ever add to CPU time, by taking caches
        best = [min(seconds[str(point)]) for point in points]
        slope, offset = np.polyfit(points, best, 1)
        power = math.log(best[-1] / best[-2]) / math.log(points[-1] / points[-2])
        line = [offset + slope * point for point in points]
        yield Row(
            idea="growth",
            what=what,
            clock=CPU,
            ours=", ".join(f"{n:,}: {s:.2f}" for n, s in zip(points, best, strict=True)),
            beside="straight line through them",
            theirs=", ".join(f"{s:.2f}" for s in line),
            ratio=power,
            samples={"size": list(points), "seconds": best},
            busy=busy,
            at_most=MOST_POWER,
            line=(float(slope), float(offset)),
        )


def _step(sizes: Sizes, changed: dict[str, int]):
    """Decoding is not compiled: this is about growth, and each shape would be compiled again."""
    setting = BASE | changed if sizes.compiles else {k: v[0] for k, v in sizes.growth.items()} | changed
    problems, group, tokens = setting["problems"], setting["group"], setting["thoughts"]
    at = dataclasses.replace(sizes, problems=problems, group=group, tokens=tokens, compiles=False)
    return stepper(policy_of(model_of(at, setting["vocabulary"]), compiles=False), THOUGHTS["soft"], at)
