"""Results as a table on the terminal and as a picture."""

from __future__ import annotations

import textwrap
from pathlib import Path

from rich.console import Console
from rich.table import Table


def table(report: dict) -> None:
    console = Console(width=None if Console().is_terminal else 150)
    columns = ("", "clock", "ours", "compared with", "theirs", "ratio", "to reach", "others busy")
    for idea in dict.fromkeys(row["idea"] for row in report["rows"]):
        shown = Table(*columns, title=f"{idea} (best / median of the rounds, ratio of medians)")
        for row in report["rows"]:
            if row["idea"] == idea:
                shown.add_row(*_cells(row))
        console.print(shown)
    console.print(f"{report['seconds']} s, {report['machine']}")


def _cells(row: dict) -> tuple[str, ...]:
    met = "" if row["reached"] is None else (" [green]yes[/]" if row["reached"] else " [red]no[/]")
    return (
        row["what"],
        row["clock"],
        row["ours"],
        row["compared_with"],
        row["theirs"],
        f"{row['ratio']:.3g}",
        f"{row['target']}{met}",
        f"{row['busy']:.0%}",
    )


def plot(report: dict, path: Path) -> None:
    """Left: every ratio that has a target, 1 where it is just reached. Right: growth, each with its straight line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    compared = [row for row in report["rows"] if row["share_of_target"] is not None]
    grown = [row for row in report["rows"] if row["idea"] == "growth"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(15, max(4.0, 0.3 * len(compared))), layout="constrained")
    for place, row in enumerate(reversed(compared)):
        left.barh(place, row["share_of_target"], color="tab:blue" if row["reached"] else "tab:orange")
    left.set_yticks(range(len(compared)), [_label(row) for row in reversed(compared)], fontsize=7)
    left.axvline(1, color="black", linewidth=1)
    left.set_xlabel("what is reached over what is to be reached (right of the line: reached)")
    for row in grown:
        sizes, seconds = row["samples"]["size"], row["samples"]["seconds"]
        slope, offset = row["line"]
        (line,) = right.plot(sizes, seconds, "o", label=f"{row['what']} (power {row['ratio']:.2f})")
        right.plot(sizes, [offset + slope * size for size in sizes], color=line.get_color(), linewidth=1)
    if grown:
        right.set(xscale="log", yscale="log", xlabel="size", ylabel="CPU seconds of a step")
        right.legend(title="lines: straight-line fits", fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _label(row: dict) -> str:
    return textwrap.fill(f"{row['what']}: {row['compared_with']} ({row['clock'].split(',')[0]})", 60)
