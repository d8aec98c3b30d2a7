"""Figures and tables as files, with the same numbers."""

from __future__ import annotations

import csv
import importlib.util

import pytest

from softtokens.config.commands import ReportConfig
from softtokens.report import figure_files
from softtokens.report.blocks import Entry, Figure, Panel, Report, Section, Series, Table
from softtokens.report.build import report
from softtokens.types import UserError

from .hostile import TEXTS

pytest.importorskip("matplotlib", reason="matplotlib is not installed (the plots extra)")


def made(name: str = "soft") -> Report:
    series = Series(name, "soft", [1, 2], [0.25, None], [0.2, None], [0.3, None])
    raw = Series(name, "soft", [1, 2], [0.2, 0.3], faint=True)
    figure = Figure("pass at/k", "pass@k", "", [Panel(name, "k", "solved, %", [series, raw], x_log=True, share=True)])
    table = Table("t", name, "", ["trained", "solved"], [[Entry(name), Entry("25.0", 0.25, 0.2, 0.3, below="more")]])
    return Report("x", "y", [Section("s", "s", [figure, table])])


def read(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_a_figure_is_three_files_and_a_table_one(tmp_path):
    figure_files.write_all(made(), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "pass_at_k.csv",
        "pass_at_k.png",
        "pass_at_k.svg",
        "t.csv",
    ]
    assert (tmp_path / "pass_at_k.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "pass_at_k.svg").read_text()


def test_the_numbers_are_those_of_the_figure(tmp_path):
    figure_files.write_all(made(), tmp_path)
    head, first, missing, raw, _ = read(tmp_path / "pass_at_k.csv")
    assert dict(zip(head, first, strict=True)) == {
        "panel": "soft",
        "series": "soft",
        "mode": "soft",
        "x_meaning": "k",
        "x": "1",
        "y_meaning": "solved",
        "y": "0.25",
        "low": "0.2",
        "high": "0.3",
    }
    assert missing[-3:] == ["", "", ""]
    assert raw[1] == "soft (unsmoothed)"
    assert read(tmp_path / "t.csv") == [
        ["trained", "solved", "solved value", "solved low", "solved high", "solved detail"],
        ["soft", "25.0", "0.25", "0.2", "0.3", "more"],
    ]


def test_the_same_report_gives_the_same_files(tmp_path):
    for name in ("a", "b"):
        figure_files.write_all(made(), tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


@pytest.mark.parametrize("y", [[200.0, 300.0], [1e-6, 1e3]])
def test_a_logarithmic_axis_is_labelled_with_numbers(tmp_path, y):
    panel = Panel("soft", "update", "norm", [Series("soft", "soft", [1, 2], y)], y_log=True)
    figure_files.write_all(Report("x", "y", [Section("s", "s", [Figure("f", "f", "", [panel])])]), tmp_path)
    drawn = (tmp_path / "f.svg").read_text()
    assert "mathdefault" not in drawn
    assert f">{y[0]:g}<" in drawn or ">1e-06<" in drawn


@pytest.mark.parametrize("text", [text[:100] for text in TEXTS.values()] + ["=1+1", "$x^", "_x", "日本"])
def test_hostile_names_are_drawn_as_text(text):
    (figure,), (table,) = made(text).figures(), made(text).tables()
    assert text.lstrip("=")[:5] in figure_files.figure_csv(figure).replace('""', '"')
    assert "\n=" not in figure_files.table_csv(table)


def test_a_hostile_name_does_not_stop_the_drawing(tmp_path):
    figure_files.write_all(made('$\\frac{<script>_"日本'), tmp_path)
    assert "<script>" not in (tmp_path / "pass_at_k.svg").read_text()


def test_without_matplotlib_the_way_out_is_named(tmp_path, quickstart_folder, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'softtokens\[plots\]'"):
        report(ReportConfig(runs=(str(quickstart_folder),), figures=str(tmp_path / "figures")))
    assert not (quickstart_folder / "report.html").exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        figure_files.write_all(made(), tmp_path / "file")
