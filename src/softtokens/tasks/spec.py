"""How to make problems of a data set's rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from softtokens.tasks.files import as_text

Reader = Callable[[Any], str]


def final_answer(value: Any) -> str:
    """The answer of a row; of a whole solution with `#### 72` at its end, the part after the mark."""
    text = as_text(value, what="the answer")
    return as_text(text.rpartition("####")[2].strip(), what="what follows #### in the answer")


@dataclasses.dataclass(frozen=True)
class TaskSpec:
    """One data set: its place on the hub and how to read its rows. Local copies may use any of the named columns."""

    name: str
    hub: str
    """`owner/name` on the Hugging Face hub."""
    splits: Mapping[str, str]
    """What we call a split -> what the hub calls it; the first is the default."""
    config: str | None = None
    """The hub's configuration of the data set."""
    questions: tuple[str, ...] = ("question", "problem")
    """Columns that may hold the question; the first one present does."""
    answers: Mapping[str, Reader] = dataclasses.field(default_factory=lambda: {"answer": final_answer})
    """Columns that may hold the answer, with the function that reads the final answer out of it."""
