"""Results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table

from softtokens.evaluate.results import Results


def evaluation_tables(results: Results) -> Iterator[Table]:
    """Everything that an evaluation holds."""
    for task in results.tasks:
        if any(key[1] == task for key in results.summaries):
            yield settings_table(results, task, f"{task}: share of problems solved, percent")
    for name in dict.fromkeys(name for _, name in results.choices):
        yield choices_table(results, name, f"{name}: multiple choice")


def settings_table(results: Results, task: str, title: str) -> Table:
    """Rows: models. Columns: cells. An entry holds pass@1 with half its 95 % interval over problems, and below it, in
    sampled settings, pass@n for all n samples."""
    cells = [cell for cell in results.cells if any((m, task, cell) in results.summaries for m in results.models)]
    table = Table(title=escape(title), header_style="bold", show_lines=True)
    table.add_column("model")
    for cell in cells:
        table.add_column(escape(cell.replace("-", "\n", 1).replace("_", "\n")), justify="right")
    for model in results.models:
        row = [_entry(results.summaries.get((model, task, cell))) for cell in cells]
        table.add_row(escape(model), *row)
    return table


def choices_table(results: Results, name: str, title: str) -> Table:
    table = Table(title=escape(title), header_style="bold")
    for column in ("model", "accuracy, percent", "NLL per token, nats"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for model in results.models:
        found = results.choices.get((model, name))
        if found is not None:
            nll = _with_margin(found["nll_per_token"], 1, digits=3)
            table.add_row(escape(model), _with_margin(found["accuracy"], 100), nll)
    return table


def _entry(summary: dict[str, Any] | None) -> str:
    if summary is None:
        return "-"
    text = _with_margin(summary["pass@k"]["1"], 100)
    largest = str(summary["samples"])
    return text if largest == "1" else f"{text}\n@{largest}: {100 * summary['pass@k'][largest]['value']:.0f}"


def _with_margin(estimate: dict[str, Any], scale: float, digits: int = 1) -> str:
    value = f"{scale * estimate['value']:.{digits}f}"
    if estimate["low"] is None:  # a single problem
        return value
    return f"{value} ±{scale * (estimate['high'] - estimate['low']) / 2:.{digits}f}"
