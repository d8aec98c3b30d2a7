"""Competitors take turns on a shared machine, and every figure says how busy the machine was."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

WALL, CPU = "wall, 2 threads", "CPU time, 1 thread"
CLOCKS = {WALL: (2, time.perf_counter), CPU: (1, time.process_time)}


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: ours beside another, under one clock.

    work: what one run produces, in `unit`; the table shows work per second, or the run's seconds where work is None.
    ratio: how often ours fits into the other's time, in medians; above 1 ours is faster. at_least, at_most: what to
    reach, if anything. busy: share of the machine's cores that others used meanwhile.
    """

    idea: str
    what: str
    clock: str
    beside: str
    seconds: dict[str, list[float]]  # "ours" and `beside`, one number per round
    work: int | None
    unit: str
    busy: float
    at_least: float | None = None

    @property
    def ratio(self) -> float:
        return statistics.median(self.seconds[self.beside]) / statistics.median(self.seconds["ours"])

    @property
    def reached(self) -> bool | None:
        return None if self.at_least is None else self.ratio >= self.at_least

    def shown(self, who: str) -> str:
        """Best and median."""
        seconds = self.seconds[who]
        best, median = min(seconds), statistics.median(seconds)
        if self.work is None:
            return f"{best:.3g} / {median:.3g} s"
        return f"{self.work / best:,.0f} / {self.work / median:,.0f} {self.unit}"

    def plain(self) -> dict:
        return dataclasses.asdict(self) | {"ratio": self.ratio, "reached": self.reached}


def take_turns(
    competitors: dict[str, Callable[[], object]], clock: str, rounds: int
) -> tuple[dict[str, list[float]], float]:
    """Seconds of each competitor, one per round after a round of warming up; and how busy others kept the machine.

    The order moves on by one each round, so that nobody always follows the same neighbour.
    """
    threads, now = CLOCKS[clock]
    names = list(competitors)
    with of_threads(threads):
        for run in competitors.values():
            run()
        seconds: dict[str, list[float]] = {name: [] for name in names}
        with busyness() as busy:
            for turn in range(rounds):
                shift = turn % len(names)
                for name in names[shift:] + names[:shift]:
                    started = now()
                    competitors[name]()
                    seconds[name].append(now() - started)
    return seconds, busy[0]


def once(run: Callable[[], object], clock: str) -> float:
    threads, now = CLOCKS[clock]
    with of_threads(threads):
        started = now()
        run()
        return now() - started


@contextlib.contextmanager
def of_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def busyness() -> Iterator[list[float]]:
    """Share of the machine's cores that other processes used inside the block, appended to the list at its end."""
    found: list[float] = []
    started, others = time.perf_counter(), _cpu_seconds_of_others()
    yield found
    elapsed = time.perf_counter() - started
    share = (_cpu_seconds_of_others() - others) / (elapsed * (os.cpu_count() or 1))
    found.append(round(min(1.0, max(0.0, share)), 3))


def _cpu_seconds_of_others() -> float:
    """Of all processes since the machine started, but for this one and its children; 0 where it cannot be known."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, stat.read_text().split("\n")[0].split()[1:])
    own = os.times()
    all_seconds = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return all_seconds - sum(own[:4])
