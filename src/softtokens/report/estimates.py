"""Estimates by arm: pass@k with intervals, and paired differences with their significance."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from softtokens.config.thought import NAMED_CELLS
from softtokens.evaluate.intervals import estimate, paired_difference
from softtokens.evaluate.passk import ks_up_to, pass_at_k
from softtokens.report.arms import Arm, model_arms
from softtokens.report.readers import number, numbers, table, text
from softtokens.report.sources import Cell, Model, Sources


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A share with its 95 % interval over problems; `seeds` holds the value of each member of the arm."""

    value: float
    low: float | None
    high: float | None
    seeds: tuple[float, ...]

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds, with n - 1 in the denominator as in the paper."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else None


@dataclasses.dataclass(frozen=True)
class Difference:
    """Mean of a - b over the same problems (or items), its 95 % interval, and the p-value of no difference."""

    mean: float
    low: float | None  # None: a single problem has no interval
    high: float | None
    p: float
    problems: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


class Results:
    """The evaluations of a report, queried by arm, task and cell."""

    def __init__(self, sources: Sources):
        self.sources = sources
        self.arms = model_arms(list(sources.models.values()))
        self.tasks = list(dict.fromkeys(task for _, task, _ in sources.cells))

    def cells(self, arm: Arm[Model], task: str, name: str) -> list[Cell]:
        cells = (self.sources.cells.get((member.name, task, name)) for member in arm.members)
        return [cell for cell in cells if cell is not None]

    def names(self, task: str) -> list[str]:
        """Names of the cells of a task: the paper's settings in their order, then those at other values."""
        names = {name for _, where, name in self.sources.cells if where == task}
        plain = [name for name in NAMED_CELLS if name in names]
        return [*plain, *sorted(names - set(plain))]

    def arms_of(self, task: str) -> list[Arm[Model]]:
        return [arm for arm in self.arms if any(self.cells(arm, task, name) for name in self.names(task))]

    def ks(self, task: str, name: str, measure: str = "pass@k") -> list[int]:
        """The k to draw a curve from, among those that every arm with this cell has."""
        sets = [set(_ks(c, measure)) for arm in self.arms for c in self.cells(arm, task, name)]
        common = set.intersection(*sets) if sets else set()
        return sorted(common & set(ks_up_to(max(common)))) if common else []

    def estimate(self, arm: Arm[Model], task: str, name: str, k: int, measure: str = "pass@k") -> Estimate | None:
        """The estimate of an arm in a cell; None if no member of the arm was measured."""
        measured = [table(table(cell.summary.get(measure)).get(str(k))) for cell in self.cells(arm, task, name)]
        values = [(number(m.get("value")), number(m.get("low")), number(m.get("high"))) for m in measured]
        estimates = [Estimate(value, low, high, (value,)) for value, low, high in values if value is not None]
        if len(estimates) < 2:
            return estimates[0] if estimates else None
        seeds = tuple(e.value for e in estimates)
        solved = self.solved(arm, task, name, k) if measure == "pass@k" else None
        interval = estimate(np.array(list(solved.values())), shares=True) if solved else {}
        return Estimate(float(np.mean(seeds)), interval.get("low"), interval.get("high"), seeds)

    def solved(self, arm: Arm[Model], task: str, name: str, k: int) -> dict[Any, float] | None:
        """pass@k of every problem, averaged over the arm's seeds; None unless all seeds have the same problems."""
        cells = self.cells(arm, task, name)
        by_member = [m for m in (_solved(cell, k) for cell in cells) if m is not None]
        if not by_member or len(by_member) < len(cells) or any(m.keys() != by_member[0].keys() for m in by_member):
            return None
        return {problem: float(np.mean([m[problem] for m in by_member])) for problem in by_member[0]}

    def difference(
        self, a: Arm[Model], b: Arm[Model], task: str, name: str, k: int, *, other: str | None = None
    ) -> Difference | None:
        """a - b in one cell (b in the cell `other`, if given), paired over the problems that both have."""
        first, second = self.solved(a, task, name, k), self.solved(b, task, other or name, k)
        if not first or not second:
            return None
        both = [problem for problem in first if problem in second]
        if not both:
            return None
        return paired(np.array([first[p] for p in both]), np.array([second[p] for p in both]), shares=True)


def paired(a: np.ndarray, b: np.ndarray, *, shares: bool) -> Difference:
    """Mean of a - b over problems or items, in the same order in both."""
    return _paired(a.astype(np.float64).tobytes(), b.astype(np.float64).tobytes(), shares)


@functools.lru_cache(maxsize=4096)
def _paired(a: bytes, b: bytes, shares: bool) -> Difference:
    """Cached: resampling is the slow part of a report, several sections need the same value, and a watched run needs it
    again."""
    difference = paired_difference(np.frombuffer(a), np.frombuffer(b), shares=shares)
    return Difference(
        difference["value"], difference["low"], difference["high"], difference["p"], difference["problems"]
    )


def samples_of(cell: Cell) -> int:
    return int(number(cell.summary.get("samples")) or 0)


def _ks(cell: Cell, measure: str) -> list[int]:
    values = table(cell.summary.get(measure))
    return [int(k) for k, v in values.items() if k.isdecimal() and number(table(v).get("value")) is not None]


def _solved(cell: Cell, k: int) -> dict[Any, float] | None:
    """pass@k by problem, if the counts of right samples are present and valid."""
    counts, samples = numbers(cell.summary.get("right")), samples_of(cell)
    right = [int(c) for c in counts if c is not None and 0 <= c <= samples and c == int(c)]
    ids = cell.summary.get("problem_ids")
    ids = [text(i) for i in ids] if isinstance(ids, list) else list(map(str, range(len(right))))
    if not right or len(right) < len(counts) or not 1 <= k <= samples or len(set(ids)) != len(right):
        return None
    return dict(zip(ids, pass_at_k(right, samples, k), strict=True))
