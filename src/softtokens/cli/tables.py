"""Results as tables for the terminal."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table

from softtokens.evaluate.results import Results

SIGNIFICANT = 0.05
_MOST_COLUMNS = 7


def evaluation_tables(results: Results) -> Iterator[Table]:
    """All tables of an evaluation."""
    for task in results.tasks:
        if any(key[1] == task for key in results.summaries):
            yield settings_table(results, task, f"{task}: share of problems solved, percent")
    for name in dict.fromkeys(name for _, name in results.choices):
        yield choices_table(results, name, f"{name}: multiple choice")
    if results.preservation:
        yield preservation_table(results)


def settings_table(results: Results, task: str, title: str) -> Table:
    """Models by cells; the cells are the rows when they are many. An entry holds pass@1 with half its 95 % interval
    over problems, and below it, in sampled settings, pass@n for all n samples."""
    cells = [cell for cell in results.cells if any((m, task, cell) in results.summaries for m in results.models)]
    table = Table(title=escape(title), header_style="bold", show_lines=True)
    if len(cells) > _MOST_COLUMNS:
        table.add_column("setting")
        for model in results.models:
            table.add_column(escape(model), justify="right")
        for cell in cells:
            row = [_entry(results.summaries.get((model, task, cell))) for model in results.models]
            table.add_row(escape(cell), *row)
        return table
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
        scores = results.choices.get((model, name))
        if scores is not None:
            nll = _with_margin(scores["nll_per_token"], 1, digits=3)
            table.add_row(escape(model), _with_margin(scores["accuracy"], 100), nll)
    return table


def preservation_table(results: Results) -> Table:
    table = Table(title="texts: what training left alone", header_style="bold")
    for column in (
        "model",
        "base",
        "KL(base || model), nats/token",
        "top-1 agreement, percent",
        "NLL difference, nats",
    ):
        table.add_column(column, justify="left" if column in ("model", "base") else "right")
    for model, kept in results.preservation.items():
        numbers = [_with_margin(kept["kl_per_token"], 1, digits=4), _with_margin(kept["top1_agreement"], 100)]
        table.add_row(escape(model), escape(kept["base"]), *numbers, _with_margin(kept["nll_difference"], 1, digits=4))
    return table


def comparison_tables(comparison: dict[str, Any]) -> Iterator[Table]:
    """One table per metric and task, one row per comparison. Shares are in percent, differences of them in points, NLL
    in nats."""
    for (metric, task), group in itertools.groupby(comparison["comparisons"], key=lambda c: (c["metric"], c["task"])):
        title = f"{metric} on {task}, against {comparison['against']} on the same problems"
        table = Table(title=escape(title), header_style="bold")
        for column in ("model, setting", "it", "ref.", "difference [95 %]", "p", "p (Holm)"):
            table.add_column(column, justify="left" if column == "model, setting" else "right")
        for c in group:
            scale, digits = (1, 3) if metric == "nll_per_token" else (100, 1)
            numbers = [f"{scale * c[key]:.{digits}f}" for key in ("of", "of_reference")]
            change = f"{scale * c['value']:+.{digits}f}"
            if c["low"] is not None:
                change += f" [{scale * c['low']:+.{digits}f}, {scale * c['high']:+.{digits}f}]"
            name = escape(c["model"] if c["cell"] is None else f"{c['model']}, {c['cell']}")
            style = "bold" if c["p_holm"] < SIGNIFICANT else None
            table.add_row(name, *numbers, change, f"{c['p']:.4f}", f"{c['p_holm']:.4f}", style=style)
        yield table


def comparison_notes(comparison: dict[str, Any]) -> Iterator[str]:
    several = len(comparison["comparisons"])
    if several > 1:
        yield (
            f"{several} comparisons, so read p (Holm), which is corrected for their number: if nothing differed, a "
            f"line below {SIGNIFICANT} (bold) would appear in at most 5 % of such tables."
        )
    yield "Intervals are over problems, not corrected, and know nothing of other training seeds."
    for reason, group in itertools.groupby(comparison["skipped"], key=lambda one: one["reason"]):
        yield f"left out ({len(list(group))}): {reason}"


def _entry(summary: dict[str, Any] | None) -> str:
    if summary is None:
        return "-"
    text = _with_margin(summary["pass@k"]["1"], 100)
    largest = str(summary["samples"])
    return text if largest == "1" else f"{text}\n@{largest}: {100 * summary['pass@k'][largest]['value']:.0f}"


def _with_margin(estimate: dict[str, Any], scale: float, digits: int = 1) -> str:
    if estimate["value"] is None:  # for some tasks lm-eval does not say which choice is right
        return "-"
    value = f"{scale * estimate['value']:.{digits}f}"
    if estimate["low"] is None:  # a single problem
        return value
    low, high = (scale * estimate[key] for key in ("low", "high"))
    if high - low > 0 and estimate["value"] in (estimate["low"], estimate["high"]):  # all wrong, all right
        return f"{value}\n{low:.0f} to {high:.0f}"
    return f"{value} ±{(high - low) / 2:.{digits}f}"
