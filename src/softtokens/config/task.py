"""Where problems come from, in training and in evaluation."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import tyro

from softtokens.config.fields import require, require_choice


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """Where problems come from."""

    name: Annotated[str, tyro.conf.arg(name="task")] = "arithmetic"
    """A built-in task (arithmetic, arithmetic-long, gsm8k, math, math500, olympiadbench, deepscaler), a file (jsonl, jsonl.gz, parquet, csv) or a hub name."""
    split: str | None = None
    """Which split; by default train for training and test for evaluation."""
    limit: int | None = None
    """Use only this many problems."""
    path: str | None = None
    """Read a built-in task from this local file or folder instead of the hub."""
    subset: str | None = None
    """Configuration (subset) of a hub data set."""
    seed: Annotated[int, tyro.conf.arg(name="task-seed")] = 0
    """Seed of the problems that the arithmetic tasks generate."""
    question: str | None = None
    """Column with the question, if it is not the task's own."""
    answer: str | None = None
    """Column with the final answer, if it is not the task's own."""
    template: str | None = None
    """Prompt text with {question} in it. A backslash followed by n is a line break. By default the task's own."""
    grader: Literal["exact", "math"] | None = None
    """exact: equal text or number. math: math-verify. By default the task's own."""

    def __post_init__(self) -> None:
        require("limit", self.limit, self.limit is None or self.limit >= 1, "at least 1, or omitted for all")
        require_choice("grader", self.grader, (None, "exact", "math"))
