"""The report command, as a user runs it."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def training_run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"group_size": 2, "steps": 1, "thought": {"mode": "hard"}}))
    (folder / "metrics.jsonl").write_text('{"step": 1, "reward": 3.0}\n')
    return folder


def test_the_path_of_the_page_is_printed(run, training_run):
    assert run("report", training_run) == (0, f"report: {training_run}/report.html\n", "")
    assert "hard" in (training_run / "report.html").read_text()


def test_several_folders_and_a_place(run, training_run, tmp_path):
    code, _, err = run("report", training_run, training_run, "--output", tmp_path / "deep/er/x.html")
    assert (code, err) == (0, "")
    assert (tmp_path / "deep/er/x.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "runs is empty; it must be one folder or more"),
        (["/nowhere/run"], "runs has '/nowhere/run', which does not exist; give folders"),
        (["{folder}"], "there is neither a training run (config.json and metrics.jsonl) nor an evaluation"),
        (["{folder}/run/config.json"], "which is a file; give its folder"),
        (["{folder}/run", "--output", "{folder}/run"], "which cannot be written: Is a directory"),
    ],
)
def test_what_cannot_be_is_one_sentence(run, training_run, tmp_path, arguments, message):
    if arguments == ["{folder}"]:
        (training_run / "metrics.jsonl").unlink()
        (training_run / "config.json").unlink()
    code, out, err = run("report", *(argument.format(folder=tmp_path) for argument in arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_training_run_that_was_just_made(run, model_folder, data_file, tmp_path):
    """The report can read a run that train has just written."""
    flags = ["--task", data_file, "--template", "User: {question}", "--device", "cpu", "--grader", "exact"]
    limits = ["--max-thought-steps", "3", "--max-answer-tokens", "2", "--steps", "2", "--group-size", "2"]
    where = ["--model", model_folder, "--output", tmp_path / "run", "--validation", data_file]
    assert run("train", *flags, *limits, *where)[0] == 0
    assert run("report", tmp_path / "run")[0] == 0
    page = (tmp_path / "run/report.html").read_text()
    assert "Reward in training" in page
    assert "not finite" not in page
    # a report inside a run's folder must not block resuming it
    assert run("train", *flags, *limits, *where, "--resume")[0] == 0
