"""The section about the signal of gradients, from whole and damaged files."""

from __future__ import annotations

import pytest

from softtokens.report.compose import compose
from softtokens.report.sources import load

from .conftest import write, write_run

TERM = {"cosine": -0.0123, "cosine_error": 0.004, "noise_scale": None, "low": 1234.0, "high": None}
MEASURED = TERM | {"cosine": 0.4, "noise_scale": 190.4, "low": 160.0, "high": 261.0}
SETTING = {"name": "hard", "thought": {"mode": "hard"}, "reward": 33.0, "solved": 0.26, "spread": 0.97}
SETTING |= {"terms": {"thought": MEASURED, "answer": TERM, "sum": MEASURED}, "sentence": "hard: about 190."}
SIGNAL = {"schema": 1, "model": "a/tiny", "task": "arithmetic", "batches": 16, "problems_per_step": 8}
SIGNAL |= {"group_size": 16, "sketch": None, "settings": [SETTING]}


def section(folder):
    sections = compose(load([str(folder)])).sections
    return next((s for s in sections if s.id == "signal"), None)


def test_a_row_for_each_setting_and_its_sentence(tmp_path):
    write(tmp_path / "signal.json", SIGNAL)
    table, words = section(tmp_path).blocks
    row = [(entry.text, entry.below) for entry in table.rows[0]]
    assert row == [
        ("hard", ""), ("33", ""), ("26", ""), ("97", ""), ("+0.400", "± 0.004"), ("−0.012", "± 0.004"),
        ("+0.400", "± 0.004"), ("190", "160 to 260"),
    ]  # fmt: skip
    assert table.title == "tiny, arithmetic"
    assert "16 independent batches of 8 problems × 16 rollouts, gradients compared whole" in table.caption
    assert words.text == "hard: about 190."


def test_what_is_not_measurable_is_a_bound(tmp_path):
    write(tmp_path / "signal.json", SIGNAL | {"settings": [SETTING | {"terms": {"sum": TERM}}]})
    row = section(tmp_path).blocks[0].rows[0]
    assert (row[4].text, row[-1].text) == ("–", "more than 1,200")


def test_without_a_file_there_is_no_section(tmp_path):
    write_run(tmp_path / "run")
    assert section(tmp_path) is None


@pytest.mark.parametrize("damaged", [{}, {"settings": 3}, {"settings": [{}]}, {"settings": [{"terms": [1]}]}])
def test_a_file_that_lacks_everything_is_shown_as_not_known(tmp_path, damaged):
    write(tmp_path / "signal.json", damaged)
    sources = load([str(tmp_path)])
    assert "names no schema" in sources.notes[0]
    assert section(tmp_path).blocks[0].title == "unknown, unknown"


def test_a_damaged_file_is_noted(tmp_path):
    write_run(tmp_path / "run")
    (tmp_path / "signal.json").write_text("{")
    assert "is damaged" in load([str(tmp_path)]).notes[0]
    assert section(tmp_path) is None
