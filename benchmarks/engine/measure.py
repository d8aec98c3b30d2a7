"""Competitors take turns on a shared machine, and every figure says how busy the machine was."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

WALL, CPU = "wall, 2 threads", "CPU time, 1 thread"
CLOCKS = {WALL: (2, time.perf_counter), CPU: (1, time.process_time)}


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: ours compared with another.

    ratio: what is to be judged. at_least, at_most: what it should reach, if anything. samples: the raw numbers behind
    the line, one per round. busy: share of the machine's cores that others used meanwhile. line: slope and offset of
    a straight line through `samples`, where the row is about growth.
    """

    idea: str
    what: str
    clock: str
    ours: str
    compared_with: str
    theirs: str
    ratio: float
    samples: dict[str, list[float]]
    busy: float
    at_least: float | None = None
    at_most: float | None = None
    line: tuple[float, float] | None = None

    @property
    def reached(self) -> bool | None:
        share = self.share_of_target
        return None if share is None else share >= 1

    @property
    def share_of_target(self) -> float | None:
        """1 and more: reached."""
        if self.at_least is not None:
            return self.ratio / self.at_least
        return None if self.at_most is None else self.at_most / self.ratio

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:.3g}"

    def plain(self) -> dict:
        derived = {"target": self.target, "reached": self.reached, "share_of_target": self.share_of_target}
        return dataclasses.asdict(self) | derived


def compared(
    seconds: dict[str, list[float]],
    ours: str,
    compared_with: str,
    *,
    work: int | None = None,
    unit: str = "",
    at_least: float | None = None,
    at_most: float | None = None,
    **names: Any,
) -> Row:
    """The row of two competitors. work: what one run produces, in `unit`; shown as a rate then, else as seconds.

    The ratio is that of the medians: how many times faster ours is; with at_most, how many times longer it takes.
    """

    def shown(who: str) -> str:
        best, median = min(seconds[who]), statistics.median(seconds[who])
        return f"{best:.3g} / {median:.3g} s" if work is None else f"{work / best:,.0f} / {work / median:,.0f} {unit}"

    longer = statistics.median(seconds[ours]) / statistics.median(seconds[compared_with])
    return Row(
        ours=shown(ours),
        compared_with=compared_with,
        theirs=shown(compared_with),
        ratio=longer if at_most is not None else 1 / longer,
        samples={"ours": seconds[ours], compared_with: seconds[compared_with]},
        at_least=at_least,
        at_most=at_most,
        **names,
    )


def take_turns(
    competitors: dict[str, Callable[[], object]], clock: str, rounds: int, *, warm: bool = False
) -> tuple[dict[str, list[float]], float]:
    """Seconds of each competitor, one per round; and how busy others kept the machine.

    warm: they have run with these threads before; else a round that does not count goes first. The order moves
    on by one each round, so that nobody always follows the same neighbour.
    """
    threads, now = CLOCKS[clock]
    names = list(competitors)
    with of_threads(threads):
        for run in () if warm else competitors.values():
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
    shares: list[float] = []
    started, others = time.perf_counter(), _cpu_seconds_of_others()
    yield shares
    elapsed = time.perf_counter() - started
    share = (_cpu_seconds_of_others() - others) / (elapsed * (os.cpu_count() or 1))
    shares.append(round(min(1.0, max(0.0, share)), 3))


def _cpu_seconds_of_others() -> float:
    """CPU seconds of all processes since the machine started, except this one and its children; 0 if unknown."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, stat.read_text().split("\n")[0].split()[1:])
    own = os.times()
    all_seconds = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return all_seconds - sum(own[:4])
