"""The paper's numbers, for reports on the same model, training and test.

data/paper_tables.json: arXiv 2509.19170v2, tables 1 to 8; mean and standard deviation over 3 seeds.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Sequence
from typing import Any

from softtokens.report.arms import Arm
from softtokens.report.blocks import Entry
from softtokens.report.readers import table, text
from softtokens.report.sources import Model

_MODELS = {"llama-3.2-3b-instruct": "L3B", "llama-3.1-8b-instruct": "L8B", "qwen2.5-3b-instruct": "Q3B"}
_TESTS = {"gsm8k": "table_3", "math500": "table_4", "math-500": "table_4", "olympiadbench": "table_5"}
_TRAINED_ON = ("gsm8k", "math", "deepscaler")
_CODES = {"hard-greedy": "HG", "hard-sample": "HS", "fuzzy-greedy": "FG", "fuzzy-sample": "FS"}
CODES = {**_CODES, "soft-greedy": "SG", "soft-sample": "SS"}
_CHOICES = {"hellaswag": "HellaSwag", "arc": "ARC", "arc_challenge": "ARC", "arc-challenge": "ARC", "mmlu": "MMLU"}


@functools.cache
def tables() -> dict[str, Any]:
    file = importlib.resources.files("softtokens.report").joinpath("data/paper_tables.json")
    return json.loads(file.read_text(encoding="utf-8"))


def six_settings(arms: Sequence[Arm[Model]], task: str, columns: list[tuple[str, int]]) -> list[list[Entry]]:
    """Rows of Tables 3 to 5 for the models and trainings of these arms; empty if none match.

    columns: setting and k of each. The paper has k = 1, and 32 in sampled settings.
    """
    name = _TESTS.get(task.lower())
    if name is None:
        return []
    return [
        [_label(row), *(_entry(row.get(f"{CODES[setting]}@{k}")) for setting, k in columns)]
        for row in _matching(tables()["tables"][name]["rows"], arms)
    ]


def out_of_domain(arms: Sequence[Arm[Model]], names: Sequence[str]) -> list[list[Entry]]:
    """Rows of Table 2, with three columns for each set of questions: accuracy, NLL, and nothing."""
    known = [_CHOICES.get(name.lower()) for name in names]
    if not any(known):
        return []
    rows = []
    for row in _matching(tables()["tables"]["table_2"]["rows"], arms):
        entries = [_label(row)]
        for column in known:
            entries += [_entry(row.get(f"{column} acc")), _entry(row.get(f"{column} NLL"), 2), Entry("")]
        rows.append(entries)
    return rows


def ablation(model: Model, task: str, knob: str, setting: str) -> list[tuple[float, float, float]]:
    """Tables 6 (gamma) and 8 (tau), fuzzy training: (value, mean, standard deviation) of pass@1 as shares; empty if the
    model, its training or the test differ."""
    if _key(model) != ("L3B", "gsm8k-fuzzy") or task.lower() != "gsm8k":
        return []
    name, column = {"gamma": ("table_6", "Noise factor"), "tau": ("table_8", "CoT temp (training)")}[knob]
    rows = tables()["tables"][name]["rows"]
    points = [(float(row[column].split("=")[1]), row[f"{CODES[setting]}@1"]) for row in rows]
    return [(value, entry["mean"] / 100, entry["std"] / 100) for value, entry in points]


def _matching(rows: list[dict[str, Any]], arms: Sequence[Arm[Model]]) -> list[dict[str, Any]]:
    asked = {key for arm in arms for member in arm.members if (key := _key(member)) is not None}
    return [row for row in rows if (row["Model"], row["Training"]) in asked]


def _key(model: Model) -> tuple[str, str] | None:
    """The paper's name for this model and its training, if it has one."""
    trained = table(model.trained)
    base = text(trained.get("base")) if model.trained else model.path
    known = next((short for name, short in _MODELS.items() if name in base.lower()), None)
    if known is None or model.trained is None:
        return (known, "base") if known else None
    task = text(trained.get("task")).lower()
    return (known, f"{task}-{model.mode}") if task in _TRAINED_ON else None


def _label(row: dict[str, Any]) -> Entry:
    full = tables()["models"][row["Model"]]
    mode = row["Training"].rsplit("-", 1)[-1]
    return Entry(f"paper: {row['Training']}", below=full, mode=mode, mark="paper")


def _entry(published: dict[str, float] | None, digits: int = 1) -> Entry:
    if published is None:
        return Entry("")
    below = f"± {published['std']:.{digits}f}" if published["std"] else ""
    return Entry(f"{published['mean']:.{digits}f}", below=below, hint="the paper; ± standard deviation over seeds")
