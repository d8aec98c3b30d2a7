"""Generations to look at: traces of the same problem side by side, thought by thought; texts where there are no traces.

Model output is untrusted text. It is shortened here, and invisible or direction-changing characters are written out;
the page only ever sets it as text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from softtokens.config.thought import NAMED_CELLS
from softtokens.report.blocks import Block, Viewer, missing
from softtokens.report.estimates import Results
from softtokens.report.readers import number, numbers, read_rows, table, text
from softtokens.report.sanitize import shown
from softtokens.report.sources import Run

MOST_PROBLEMS = 12  # per task
MOST_STEPS = 600
MOST_BYTES = 2_000_000  # of all generations together
LONGEST_TOKEN = 40  # characters
_TOP = 5
_LEAST_WEIGHT = 1e-4  # lighter tokens of a mixture are not listed
_SAMPLES_READ = 2000  # of a cell's samples, to find the first problems


def of_evaluation(results: Results) -> list[Block]:
    generations = [*_traces(results), *_texts(results)]
    groups = _by_problem(results, generations)
    if not groups:
        return [missing("no generation was recorded (evaluate with --traces).")]
    return [Viewer("traces", groups)]


def of_training(runs: list[Run]) -> list[Block]:
    """The first rollouts of the first, the middle and the last update of each run."""
    groups = []
    for run in runs:
        samples = [s for s in run.samples if number(s.get("step")) is not None]
        steps = sorted({step for s in samples if (step := number(s.get("step"))) is not None})
        for step in dict.fromkeys((steps[i] for i in (0, len(steps) // 2, -1)) if steps else ()):
            here = [s for s in samples if number(s.get("step")) == step][:3]
            generations = [
                _text_of(s, run.name, run.mode, f"reward {text(s.get('reward'))}") | {"prompt": shown(s.get("prompt"))}
                for s in here
            ]
            groups.append(_group(f"{run.name}, update {step:.0f}", "training", here[0], generations) | {"mixed": True})
    return [Viewer("rollouts", _within(groups))] if groups else []


def _traces(results: Results) -> Iterator[dict[str, Any]]:
    for row in results.sources.traces:
        model = results.sources.models.get(text(row.get("model")))
        mode = model.mode if model else "unknown"
        yield row | {
            "_shown": _text_of(row, text(row.get("model")), mode, text(row.get("cell"))) | {"steps": _steps(row)}
        }


def _texts(results: Results) -> Iterator[dict[str, Any]]:
    """Samples of the cells that have no traces."""
    traced = {(text(row.get("model")), text(row.get("task")), text(row.get("cell"))) for row in results.sources.traces}
    for key, cell in results.sources.cells.items():
        if key in traced or cell.name not in NAMED_CELLS:
            continue
        rows = read_rows(cell.file.parent / "samples.jsonl", results.sources.notes, _SAMPLES_READ)
        for row in [row for row in rows if number(row.get("sample")) == 0][:MOST_PROBLEMS]:
            mode = results.sources.models[cell.model].mode
            shown = _text_of(row, cell.model, mode, cell.name)
            yield row | {"task": cell.task, "model": cell.model, "cell": cell.name, "_shown": shown}


def _by_problem(results: Results, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_problem: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        by_problem.setdefault((text(row.get("task")), text(row.get("problem"))), []).append(row)
    rank = {member.name: i for i, arm in enumerate(results.arms) for member in arm.members}
    groups: list[dict[str, Any]] = []
    for (task, problem), here in sorted(
        by_problem.items(), key=lambda item: (item[0][0], -len(item[1]), _natural(item[0][1]))
    ):
        if sum(group["task"] == shown(task) for group in groups) >= MOST_PROBLEMS:
            continue
        here.sort(key=lambda row: (rank.get(text(row.get("model")), 99), _order(text(row.get("cell")))))
        row = next((row for row in here if row.get("prompt")), here[0])
        groups.append(_group(f"{task}, problem {problem}", task, row, [row["_shown"] for row in here]))
    return _within(groups)


def _within(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As many generations as fit into the page."""
    kept: list[dict[str, Any]] = []
    size = 0
    for group in groups:
        size += len(json.dumps(group))
        if kept and size > MOST_BYTES:
            break
        kept.append(group)
    return kept


def _group(title: str, task: str, row: dict[str, Any], generations: list[dict[str, Any]]) -> dict[str, Any]:
    prompt, expected = shown(row.get("prompt")), shown(row.get("expected"), 200)
    return {
        "title": shown(title, 120),
        "task": shown(task, 60),
        "prompt": prompt,
        "expected": expected,
        "of": generations,
    }


def _text_of(row: dict[str, Any], name: str, mode: str, cell: str) -> dict[str, Any]:
    texts = {key: shown(row.get(key), 200) for key in ("answer", "verdict", "stop", "extracted")}
    return {
        "model": shown(name, 60),
        "mode": mode,
        "cell": shown(cell, 60),
        "text": shown(row.get("thoughts")),
        **texts,
    }


def _steps(row: dict[str, Any]) -> list[dict[str, Any]]:
    """s: shadow token, t: heaviest tokens, e: entropy, n: effective support, m: largest weight, z: noise."""
    columns = table(row.get("step_columns"))
    shadow, top = (column if isinstance(column, list) else [] for column in map(columns.get, ("shadow", "top")))
    values = {
        k: numbers(columns.get(key))
        for k, key in zip("enmz", ("entropy", "effective_support", "max_weight", "noise"), strict=True)
    }
    steps = []
    for i, token in enumerate(shadow[:MOST_STEPS]):
        step: dict[str, Any] = {"s": shown(token, LONGEST_TOKEN)}
        here = {k: column[i] for k, column in values.items() if i < len(column)}
        step |= {k: _short(value) for k, value in here.items() if value is not None}
        step["t"] = _top(top[i]) if i < len(top) else []
        steps.append(step)
    return steps


def _top(entries: Any) -> list[list[Any]]:
    pairs = [e for e in entries if isinstance(e, list) and len(e) == 2] if isinstance(entries, list) else []
    kept = [(shown(token, LONGEST_TOKEN), number(weight)) for token, weight in pairs[:_TOP]]
    return [[token, _short(weight)] for token, weight in kept if weight is not None and weight >= _LEAST_WEIGHT]


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _order(cell: str) -> int:
    return NAMED_CELLS.index(cell) if cell in NAMED_CELLS else len(NAMED_CELLS)


def _natural(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdecimal() and len(name) < 18 else (10**18, name)
