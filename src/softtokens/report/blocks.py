"""What a report consists of, before it is drawn: sections of sentences, figures, tables and traces, as plain data.

A figure is panels of series; the page, the PNG and SVG files and the CSV are three drawings of the same thing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

MINUS = "−"
MODES = ("base", "hard", "fuzzy", "soft")  # the order of the paper's tables; each has its own colour everywhere
CONTINUOUS = ("fuzzy", "soft")  # the modes that the paper's claims are about
Mark = Literal["", "best", "tied", "up", "down", "up-bad", "down-good", "paper"]
Level = Literal["warning", "note"]


@dataclasses.dataclass(frozen=True)
class Series:
    """x, y and, where measured, an interval [low, high] around y; all of one length. None: not measured."""

    name: str
    mode: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] | None = None
    high: Sequence[float | None] | None = None
    kind: Literal["line", "points"] = "line"
    faint: bool = False  # drawn behind the others: single seeds, unsmoothed values
    dash: int = 0  # which dash pattern, to tell series of one mode apart


@dataclasses.dataclass(frozen=True)
class Panel:
    title: str
    x: str
    y: str
    series: list[Series]
    x_log: bool = False
    y_log: bool = False
    share: bool = False  # y is a share, shown in percent
    y_zero: bool = False  # the axis starts at 0
    line_at: float | None = None  # a horizontal line: a threshold


@dataclasses.dataclass(frozen=True)
class Figure:
    id: str
    title: str
    caption: str
    panels: list[Panel]
    same_y: bool = False  # the panels share their y axis

    @property
    def kind(self) -> str:
        return "figure"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One cell of a table: a number with its scale, or plain text."""

    text: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    below: str = ""  # a second, quieter line
    mark: Mark = ""
    mode: str = ""  # colours a row's name
    hint: str = ""  # shown on hover
    bar: tuple[float, float, float] | None = None  # value and interval as positions 0..1 of a drawn bar
    zero: float | None = None  # position 0..1 of the bar's line at no difference


@dataclasses.dataclass(frozen=True)
class Table:
    id: str
    title: str
    caption: str
    columns: list[str]
    rows: list[list[Entry]]
    compact: bool = False  # many rows of one line

    @property
    def kind(self) -> str:
        return "table"

    @property
    def folded(self) -> bool:
        """Whether the table starts collapsed, because it is long."""
        return self.compact and len(self.rows) > 16


@dataclasses.dataclass(frozen=True)
class Words:
    """A paragraph."""

    text: str
    tone: Literal["", "missing"] = ""

    @property
    def kind(self) -> str:
        return "words"


@dataclasses.dataclass(frozen=True)
class Finding:
    """A warning about a run or an evaluation; with level "note", something that could not be read."""

    level: Level
    where: str
    text: str


@dataclasses.dataclass(frozen=True)
class Findings:
    findings: list[Finding]

    @property
    def kind(self) -> str:
        return "findings"


@dataclasses.dataclass(frozen=True)
class Viewer:
    """Generations to step through: traces, or texts where there are no traces."""

    id: str
    groups: list[dict[str, Any]]

    @property
    def kind(self) -> str:
        return "viewer"


Block = Figure | Table | Words | Findings | Viewer


@dataclasses.dataclass(frozen=True)
class Section:
    id: str
    title: str
    blocks: list[Block]
    lead: str = ""


@dataclasses.dataclass(frozen=True)
class Report:
    title: str
    subtitle: str
    sections: list[Section]

    def figures(self) -> list[Figure]:
        return [b for s in self.sections for b in s.blocks if isinstance(b, Figure)]

    def tables(self) -> list[Table]:
        return [b for s in self.sections for b in s.blocks if isinstance(b, Table)]


def missing(what: str) -> Words:
    return Words(f"Not measured: {what}", "missing")


def percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"


def span(low: float | None, high: float | None, scale: float = 100, digits: int = 1) -> str:
    """An interval in words: [23.1, 31.0]."""
    if low is None or high is None:
        return ""
    return f"[{scale * low:.{digits}f}, {scale * high:.{digits}f}]".replace("-", MINUS)


def plain(value: float | None, digits: int = 3) -> str:
    """A number, with as few digits as its size allows."""
    if value is None:
        return "–"
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
