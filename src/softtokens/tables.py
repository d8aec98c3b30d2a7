"""Results as tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from softtokens.config import ALL_SETTINGS


def settings_table(results: dict[str, dict[str, Any]], title: str = "share of problems solved, percent") -> Table:
    """Rows: models. Columns: the settings. A cell holds pass@1 with half its 95 % interval over problems, and below it,
    in sampled settings, pass@n for all n samples."""
    settings = [s for s in ALL_SETTINGS if any(s in r["settings"] for r in results.values())]
    table = Table(title=title, header_style="bold", show_lines=True)
    table.add_column("model")
    for setting in settings:
        table.add_column(setting.replace("-", "\n"), justify="right")
    for name, result in results.items():
        table.add_row(escape(name), *(_cell(result["settings"].get(setting)) for setting in settings))
    return table


def choices_table(results: dict[str, dict[str, Any]], title: str = "multiple choice") -> Table:
    table = Table(title=title, header_style="bold")
    for column in ("model", "accuracy, percent", "NLL per token, nats"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, result in results.items():
        if "choices" in result:
            c = result["choices"]
            accuracy = _with_margin(c["accuracy"], c["accuracy_interval"], 100)
            table.add_row(escape(name), accuracy, _with_margin(c["nll_per_token"], c["nll_interval"], 1, digits=3))
    return table


def _cell(result: dict[str, Any] | None) -> str:
    if result is None:
        return "-"
    text = _with_margin(result["pass@k"]["1"], result["interval"]["1"], 100)
    largest = str(result["samples"])
    return text if largest == "1" else f"{text}\n@{largest}: {100 * result['pass@k'][largest]:.0f}"


def _with_margin(value: float, interval: tuple[float, float], scale: float, digits: int = 1) -> str:
    margin = (interval[1] - interval[0]) / 2
    return f"{scale * value:.{digits}f} ±{scale * margin:.{digits}f}"
