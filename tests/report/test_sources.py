"""Which folders count as runs and evaluations, and the notes about incomplete ones."""

from __future__ import annotations

import json
import shutil

import pytest

from softtokens.report.sources import load
from softtokens.types import UserError

from .conftest import write, write_evaluation, write_run


def test_a_quickstart_folder_is_searched(quickstart_folder):
    sources = load([str(quickstart_folder)])
    assert sorted(run.mode for run in sources.runs) == ["fuzzy", "hard", "soft"]
    assert list(sources.models) == ["base", "hard", "fuzzy", "soft"]
    assert len(sources.cells) == 4 * 6
    assert sources.notes == []


def test_the_training_run_of_a_model_is_found(quickstart_folder):
    models = load([str(quickstart_folder)]).models
    assert models["soft"].run.mode == "soft"
    assert models["base"].run is None


def test_a_folder_given_twice_counts_once(quickstart_folder):
    sources = load([str(quickstart_folder), str(quickstart_folder / "hard")])
    assert len(sources.runs) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "which does not exist"),
        (lambda p: p.mkdir(), "there is neither a training run"),
        (lambda p: p.write_text("x"), "which is a file"),
        (lambda p: write(p / "results.json", {"settings": {}}), "is of an older version; evaluate again"),
        (lambda p: write(p / "config.json", {"hidden_size": 3}), "there is neither a training run"),
    ],
)
def test_what_cannot_be_reported_on(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(UserError, match=message):
        load([str(tmp_path / "x")])


def test_a_run_before_its_first_update(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "metrics.jsonl").unlink()
    sources = load([str(folder)])
    assert sources.runs[0].metrics == []
    assert "has no finished update" in sources.notes[0]


def test_a_run_whose_configuration_is_lost(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "config.json").write_text("{")
    sources = load([str(folder)])
    assert sources.runs[0].mode == "unknown"
    assert "is damaged" in sources.notes[0]


def test_an_unfinished_cell_is_no_cell(tmp_path):
    folder = write_evaluation(tmp_path / "eval")
    (folder / "cells/hard/arithmetic/soft-sample/summary.json").unlink()
    (folder / "cells/base/arithmetic/soft-sample/summary.json").write_text('{"pass@k": {"1"')
    sources = load([str(folder)])
    assert ("hard", "arithmetic", "soft-sample") not in sources.cells
    assert ("base", "arithmetic", "soft-sample") not in sources.cells
    assert len(sources.cells) == 4 * 6 - 2
    assert len(sources.notes) == 1


@pytest.mark.parametrize(("schema", "message"), [(7, "has schema 7"), (None, "names no schema"), ("x", "has schema x")])
def test_another_schema_is_said(tmp_path, schema, message):
    folder = write_evaluation(tmp_path / "eval")
    content = json.loads((folder / "evaluation.json").read_text())
    write(folder / "evaluation.json", content | {"schema": schema})
    sources = load([str(folder)])
    assert message in sources.notes[0]
    assert len(sources.cells) == 4 * 6


def test_an_evaluation_without_a_finished_cell(tmp_path):
    folder = write_evaluation(tmp_path / "eval")
    shutil.rmtree(folder / "cells")
    assert any("has no finished cell yet" in note for note in load([str(folder)]).notes)


def test_one_name_for_two_models_is_told_apart(tmp_path):
    for place in ("a", "b"):
        write_evaluation(tmp_path / place / "eval", ("base", "soft"), runs=tmp_path / place)
    models = load([str(tmp_path)]).models
    assert list(models) == ["base", "soft", "base (b/eval)", "soft (b/eval)"]


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc", "..", "", "a\0b", 7])
def test_a_name_that_leads_elsewhere_is_not_followed(tmp_path, name):
    folder = write_evaluation(tmp_path / "eval", ("base",))
    content = json.loads((folder / "evaluation.json").read_text())
    write(folder / "evaluation.json", content | {"models": [{"name": name, "path": "x", "trained": None}]})
    sources = load([str(folder)])
    assert sources.cells == {}
    if name != 7:
        assert "without a usable name" in sources.notes[0]
