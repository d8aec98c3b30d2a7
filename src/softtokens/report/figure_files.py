"""Every figure as PNG and SVG, and every figure and table as CSV: for papers and for other tools."""

from __future__ import annotations

import csv
import importlib.util
import io
import re
import warnings
from pathlib import Path
from typing import Any

from softtokens.report.blocks import Figure, Panel, Report, Series, Table
from softtokens.types import UserError

# the page's colours in light mode (static/style.css)
COLOURS = {"base": "#6b7078", "hard": "#c8501b", "fuzzy": "#0b8566", "soft": "#1466b0"}
_OTHER = "#7a4fa3"
_DASHES = ("-", (0, (6, 3)), (0, (2, 3)), (0, (9, 3, 2, 3)))
_COLUMNS = 3
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#dedcd5",
    "grid.linewidth": 0.6,
    "axes.edgecolor": "#8b9096",
    "axes.labelcolor": "#5d6166",
    "xtick.color": "#5d6166",
    "ytick.color": "#5d6166",
    "ytick.major.size": 0,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "softtokens",  # makes the files reproducible
    "text.parse_math": False,  # a $ in a model's name does not start a formula
}


def require_matplotlib(folder: str) -> None:
    """Raise UserError if figures are requested and matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(f"figures is {folder!r}, but matplotlib is not installed; pip install 'softtokens[plots]'")


def write_all(report: Report, folder: Path) -> None:
    """Write one .png, .svg and .csv per figure, and one .csv per table. UserError if the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure in report.figures():
            (folder / f"{file_name(figure.id)}.csv").write_text(figure_csv(figure), encoding="utf-8", errors="replace")
            _draw(figure, folder / file_name(figure.id))
        for table in report.tables():
            (folder / f"{file_name(table.id)}.csv").write_text(table_csv(table), encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"figures is {str(folder)!r}, which cannot be written: {error.strerror}") from error


def file_name(id: str) -> str:
    """An id as a file name that every file system accepts."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", id)[:100]


def figure_csv(figure: Figure) -> str:
    rows: list[list[Any]] = [["panel", "series", "mode", "x_meaning", "x", "y_meaning", "y", "low", "high"]]
    for panel in figure.panels:
        for series in panel.series:
            for i, x in enumerate(series.x):
                low, high = (None if bound is None else bound[i] for bound in (series.low, series.high))
                name = f"{series.name} (unsmoothed)" if series.faint else series.name
                meaning = panel.y.removesuffix(", %")  # the CSV holds shares, not percent
                rows.append([panel.title, name, series.mode, panel.x, x, meaning, series.y[i], low, high])
    return _csv(rows)


def table_csv(table: Table) -> str:
    """The text of every column; for numbers also their value and interval at full precision."""
    columns = list(zip(*table.rows, strict=True))
    head: list[Any] = []
    rows: list[list[Any]] = [[] for _ in table.rows]
    for name, entries in zip(table.columns, columns, strict=True):
        has_number, has_detail = any(e.value is not None for e in entries), any(e.below for e in entries)
        head += [name, *([f"{name} value", f"{name} low", f"{name} high"] if has_number else [])]
        head += [f"{name} detail"] if has_detail else []
        for row, entry in zip(rows, entries, strict=True):
            row += [entry.text, *([entry.value, entry.low, entry.high] if has_number else [])]
            row += [entry.below] if has_detail else []
    return _csv([head, *rows])


def _csv(rows: list[list[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([[_cell(value) for value in row] for row in rows])
    return out.getvalue()


def _cell(value: Any) -> Any:
    """Prefix text that a spreadsheet would read as a formula with an apostrophe. Numbers stay numbers."""
    if isinstance(value, str) and value[:1] in ("=", "@", "\t", "\r"):
        return f"'{value}"
    return value


def _draw(figure: Figure, path: Path) -> None:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # a letter that the font lacks becomes a box; the CSV file has the letter
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        columns = min(_COLUMNS, len(figure.panels))
        rows = -(-len(figure.panels) // columns)
        canvas = Canvas(figsize=(2.9 * columns + 0.4, 2.2 * rows + 0.4), layout="constrained")
        FigureCanvasAgg(canvas)
        axes = canvas.subplots(rows, columns, squeeze=False, sharey=figure.same_y)
        for place, panel in zip(axes.flat, figure.panels, strict=False):
            _panel(place, panel)
        for place in list(axes.flat)[len(figure.panels) :]:
            place.set_axis_off()
        handles = {h.get_label(): h for a in axes.flat for h in a.get_legend_handles_labels()[0]}
        if handles:
            canvas.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=4)
        canvas.savefig(path.with_name(f"{path.name}.png"), dpi=200)
        canvas.savefig(path.with_name(f"{path.name}.svg"), metadata={"Date": None})


def _panel(axes: Any, panel: Panel) -> None:
    scale = 100 if panel.share else 1
    for series in panel.series:
        _series(axes, series, scale)
    if panel.line_at is not None:
        axes.axhline(scale * panel.line_at, color="#9a5b00", linewidth=0.8, linestyle=":")
    if panel.x_log:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    positive = [value for series in panel.series for value in series.y if value is not None and value > 0]
    if panel.y_log and positive:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")  # the default formatter writes formulas
        if max(positive) < 10 * min(positive):
            axes.yaxis.set_minor_formatter(lambda y, _: f"{y:g}")
        else:
            axes.yaxis.set_minor_formatter("")
    elif panel.y_zero:
        axes.set_ylim(bottom=0)
    axes.set_title(panel.title, loc="left", fontsize=8)
    axes.set_xlabel(panel.x)
    axes.set_ylabel(panel.y)


def _series(axes: Any, series: Series, scale: float) -> None:
    colour = COLOURS.get(series.mode, _OTHER)
    y, low, high = (_scaled(values, scale) for values in (series.y, series.low, series.high))
    look = {"color": colour, "alpha": 0.28 if series.faint else 1, "linewidth": 0.7 if series.faint else 1.3}
    marker = "o" if len(series.x) < 12 and not series.faint else ""
    # the legend drops labels with a leading _
    label = "_" if series.faint else re.sub("^_", " _", series.name)
    style = _DASHES[series.dash % len(_DASHES)]
    axes.plot(series.x, y, linestyle=style, marker=marker, markersize=2.6, label=label, **look)
    if series.low is not None and series.high is not None:
        axes.fill_between(series.x, low, high, color=colour, alpha=0.14, linewidth=0)


def _scaled(values: Any, scale: float) -> list[float]:
    return [float("nan") if value is None else scale * value for value in values or ()]
