"""How a soft step grows with its sizes, one at a time, and the power of the last doubling."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np
from benchmarks.engine.measure import CLOCKS, CPU, Row, busyness, of_threads, take_turns
from benchmarks.engine.steps import stepper
from benchmarks.engine.subject import THOUGHTS, Sizes, decoder_of, model_of
from torch.profiler import ProfilerActivity, profile

# attention grows with the square of the thoughts; whatever else there is should not
MOST_POWER = 1.1
BASE = {"thoughts": 64, "group": 16, "vocabulary": 512, "problems": 2}


def rows(sizes: Sizes) -> Iterator[Row]:
    for what, points in sizes.growth.items():
        competitors = {str(point): _step(sizes, {what: point}) for point in points}
        seconds, busy = take_turns(competitors, CPU, sizes.slow_rounds, warm=True)
        # the first round warms up, others only ever add to CPU time, by taking caches
        best = [min(taken) for taken in seconds.values()]
        yield _row(what, points, best, busy)
        if what == "thoughts":
            with busyness() as busy:
                attention = [_attention(step) for step in competitors.values()]
            rest = [whole - part for whole, part in zip(best, attention, strict=True)]
            yield _row("thoughts, all but attention", points, rest, busy[0])


def _row(what: str, points: tuple[int, ...], seconds: list[float], busy: float) -> Row:
    slope, offset = np.polyfit(points, seconds, 1)
    power = math.log(seconds[-1] / seconds[-2]) / math.log(points[-1] / points[-2])
    line = [offset + slope * point for point in points]
    return Row(
        idea="growth",
        what=what,
        clock=CPU,
        ours=", ".join(f"{n:,}: {s:.2f}" for n, s in zip(points, seconds, strict=True)),
        compared_with="straight line through them",
        theirs=", ".join(f"{s:.2f}" for s in line),
        ratio=power,
        samples={"size": list(points), "seconds": seconds},
        busy=busy,
        at_most=MOST_POWER,
        line=(float(slope), float(offset)),
    )


def _attention(step: Callable[[], object]) -> float:
    """CPU seconds that one step spends in the kernels of attention, forward and backward, by the profiler."""
    with of_threads(CLOCKS[CPU][0]), profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    kernels = (event for event in profiler.key_averages() if "scaled_dot_product" in event.key)
    return sum(event.self_cpu_time_total for event in kernels) / 1e6


def _step(sizes: Sizes, changed: dict[str, int]) -> Callable[[], object]:
    """Decoding is not compiled: this is about growth, and each shape would be compiled again."""
    setting = BASE | changed if sizes.compiles else {k: v[0] for k, v in sizes.growth.items()} | changed
    problems, group, tokens = setting["problems"], setting["group"], setting["thoughts"]
    at = dataclasses.replace(sizes, problems=problems, group=group, tokens=tokens, compiles=False)
    return stepper(decoder_of(model_of(at, setting["vocabulary"]), compiles=False), THOUGHTS["soft"], at)
