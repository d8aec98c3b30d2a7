"""Damaged files give what can be read and a sentence about the rest."""

from __future__ import annotations

import json

import pytest

from softtokens.report.readers import number, read_object, read_rows


def test_a_missing_file_is_nothing_and_no_complaint(tmp_path):
    notes = []
    assert read_object(tmp_path / "none.json", notes) is None
    assert read_rows(tmp_path / "none.jsonl", notes) == []
    assert notes == []


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (b'{"a": 1', "is damaged"),
        (b"", "is damaged"),
        (b"[1, 2]", "holds no JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": 1' + b"\0" * 10, "is damaged"),
    ],
)
def test_a_damaged_object_is_left_out_with_a_note(tmp_path, content, note):
    file, notes = tmp_path / "x.json", []
    file.write_bytes(content)
    assert read_object(file, notes) is None
    assert len(notes) == 1
    assert note in notes[0]


def test_nan_is_no_number_and_invalid_bytes_are_text(tmp_path):
    file, notes = tmp_path / "x.json", []
    file.write_bytes(b'{"a": NaN, "b": -Infinity, "c": 1e999, "d": "\xff\xfe"}')
    content = read_object(file, notes)
    assert [number(content[k]) for k in "abc"] == [None, None, None]
    assert content["d"] == "\ufffd\ufffd"


@pytest.mark.parametrize("value", [None, True, "3", [], {}, float("nan"), 10**400, 1e308, -1e308])
def test_what_is_no_number(value):
    assert number(value) is None


def test_rows_around_damaged_ones_are_kept(tmp_path):
    file, notes = tmp_path / "x.jsonl", []
    file.write_text('{"step": 1}\nnonsense\n[3]\n\n{"step": 2}\n')
    assert read_rows(file, notes) == [{"step": 1}, {"step": 2}]
    assert notes == [f"{file}: 2 damaged lines are skipped."]


def test_a_line_cut_in_half_is_what_a_running_run_leaves(tmp_path):
    file, notes = tmp_path / "x.jsonl", []
    file.write_text('{"step": 1}\n{"step": 2, "rew')
    assert read_rows(file, notes) == [{"step": 1}]
    assert "ends in the middle of a line" in notes[0]


def test_only_so_many_rows(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps({"i": i}) + "\n" for i in range(10)))
    assert [row["i"] for row in read_rows(file, [], limit=3)] == [0, 1, 2]
