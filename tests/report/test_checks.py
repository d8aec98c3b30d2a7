"""A healthy run gives no warning; each problem gives the intended one."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from softtokens.report import checks
from softtokens.report.estimates import Results
from softtokens.report.sources import load

from .conftest import train_row, write, write_evaluation, write_lines, write_run

DOCS = Path(__file__).parents[2] / "docs" / "report.md"


def warnings_of(tmp_path, **changes):
    run = load([str(write_run(tmp_path / "run", steps=20, changes=changes))]).runs[0]
    return [finding.text for finding in checks.check_run(run)]


def test_a_healthy_run_has_no_warning(tmp_path):
    assert warnings_of(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entropy": 0.01}, "Entropy has collapsed: 0.01 nats"),
        ({"frac_reward_zero_std": 0.6}, "All rollouts of 60 % of the problems"),
        ({"frac_reward_zero_std": 1.0}, "there is nothing to learn from"),
        ({"mismatch/answer_log_prob": 2e-3}, "mismatch of answer log prob is 0.002"),
        ({"mismatch/thought_kl": 0.5}, "mismatch of thought kl is 0.5"),
        ({"grad_norm/thought": 6000.0}, "is 100 times the answer term's"),
        ({"verdict/grader_error": 0.01}, "The grader failed on 1.00 %"),
        ({"verdict/grader_timeout": 0.001}, "The grader failed on 0.10 %"),
        ({"stop/limit": 0.75}, "75 % of the thoughts were cut off"),
        ({"verdict/no_answer": 0.9}, "90 % of the rollouts gave no answer"),
        ({"completions/thought_length": 1.0}, "Thoughts have shrunk to 1.0 steps"),
        ({"grad_norm": None}, "grad_norm was not finite in 20 of 20 updates"),
        ({"skipped": 1.0}, "20 of 20 updates were skipped because of values that were not finite"),
        ({"thought/spikes": 2.0}, "40 of "),
        ({"reward": float("nan")}, "reward was not finite in 20 of 20 updates"),
    ],
)
def test_each_sickness_is_named(tmp_path, changes, message):
    texts = warnings_of(tmp_path, **changes)
    assert len(texts) == 1
    assert message in texts[0]


@pytest.mark.parametrize(
    ("key", "first", "last", "message"),
    [
        ("entropy", 1.0, 0.05, "Entropy has collapsed from 1 to 0.05"),
        ("reward", 60.0, 50.0, "The reward fell, from 60.0 to 50.0"),
    ],
)
def test_a_fall_is_named(tmp_path, key, first, last, message):
    folder = write_run(tmp_path / "run", steps=20)
    rows = [train_row(i + 1, 20, random.Random(0), **{key: first if i < 10 else last}) for i in range(20)]
    write_lines(folder / "metrics.jsonl", rows)
    texts = [finding.text for finding in checks.check_run(load([str(folder)]).runs[0])]
    assert len(texts) == 1
    assert message in texts[0]


def test_a_fall_that_may_be_noise_is_not_named(tmp_path):
    folder = write_run(tmp_path / "run", steps=20)
    rewards = [90.0, 30.0, 70.0, 50.0] * 3 + [80.0, 20.0, 60.0, 40.0] * 2
    write_lines(
        folder / "metrics.jsonl", [train_row(i + 1, 20, random.Random(0), reward=r) for i, r in enumerate(rewards)]
    )
    assert checks.check_run(load([str(folder)]).runs[0]) == []


def test_runs_that_do_not_compare(tmp_path):
    write_run(tmp_path / "a", task={"name": "gsm8k"})
    write_run(tmp_path / "b", "hard", model="other", steps=10)
    config = json.loads((tmp_path / "b/config.json").read_text())
    write(tmp_path / "b/config.json", config | {"steps": 99})
    texts = [finding.text for finding in checks.check_runs(load([str(tmp_path)]).runs)]
    assert "The runs have different tasks (arithmetic, gsm8k)" in texts[0]
    assert "The runs have different models (other, tiny)" in texts[1]
    assert texts[2] == "10 of 99 updates are done."


def test_what_is_wrong_with_an_evaluation(tmp_path):
    folder = write_evaluation(tmp_path / "eval", ("base", "hard"), cells=("hard-sample",))
    file = folder / "cells/hard/arithmetic/hard-sample/summary.json"
    sick = {"verdicts": {"grader_error": 0.02, "no_answer": 0.6}, "stops": {"limit": 0.9}, "problems": 7}
    write(file, json.loads(file.read_text()) | sick)
    empty = folder / "cells/base/arithmetic/hard-sample/summary.json"
    write(empty, json.loads(empty.read_text()) | {"samples": 0})
    texts = " ".join(finding.text for finding in checks.check_evaluation(Results(load([str(folder)]))))
    for message in (
        "Only 7 problems",
        "different numbers of problems (7 and 24)",
        "The grader failed on 2.00 % of the samples",
        "90 % of the thoughts were cut off",
        "60 % of the samples gave no answer",
        "There are no samples in this cell",
    ):
        assert message in texts


def test_documented_thresholds_are_those_of_the_code():
    rows = dict(re.findall(r"^\| `(\w+)` \| ([0-9.]+)", DOCS.read_text(), flags=re.MULTILINE))
    assert {name: float(value) for name, value in rows.items()} == checks.THRESHOLDS
