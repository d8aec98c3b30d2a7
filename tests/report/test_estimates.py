"""Seeds are pooled, differences are paired, significance is corrected."""

from __future__ import annotations

import json

import numpy as np
import pytest

from softtokens.report.arms import model_arms, run_arms
from softtokens.report.estimates import Results
from softtokens.report.sources import Model, load
from softtokens.report.training import curve, running_mean

from .conftest import PROBLEMS, SAMPLES, summary, write, write_evaluation, write_run


@pytest.fixture
def results(tmp_path):
    return Results(load([str(write_evaluation(tmp_path / "eval"))]))


def arm(results, label):
    return next(arm for arm in results.arms if arm.label == label)


def test_order_is_that_of_the_paper(results):
    assert [arm.label for arm in results.arms] == ["base", "hard", "fuzzy", "soft"]


def test_an_estimate_is_what_the_summary_says(results, tmp_path):
    summary = json.loads((tmp_path / "eval/cells/hard/arithmetic/soft-sample/summary.json").read_text())
    estimate = results.estimate(arm(results, "hard"), "arithmetic", "soft-sample", 4)
    assert [estimate.value, estimate.low, estimate.high] == list(summary["pass@k"]["4"].values())
    assert results.estimate(arm(results, "hard"), "arithmetic", "soft-sample", 3) is None


def test_a_difference_is_paired(tmp_path):
    """The same problems in another order, and one that only one of the two has seen."""
    folder = write_evaluation(tmp_path / "eval", ("base", "hard"), cells=("hard-sample",))
    place = "cells/{}/arithmetic/hard-sample/summary.json"
    base, hard = (
        summary("base", "hard-sample", [0, 4, 8], SAMPLES),
        summary("hard", "hard-sample", [8, 2, 6, 8], SAMPLES),
    )
    write(folder / place.format("base"), base | {"problem_ids": ["a", "b", "c"]})
    write(folder / place.format("hard"), hard | {"problem_ids": ["c", "a", "b", "d"]})
    results = Results(load([str(folder)]))
    d = results.difference(arm(results, "hard"), arm(results, "base"), "arithmetic", "hard-sample", 1)
    assert d.problems == 3
    assert d.mean == pytest.approx(np.mean([2 / 8, 2 / 8, 0]))


@pytest.mark.parametrize(
    "damage",
    [{"right": [9] * PROBLEMS}, {"right": [1.5] * PROBLEMS}, {"right": None}, {"samples": 0}, {"problem_ids": [1, 1]}],
)
def test_counts_that_make_no_sense_are_not_compared(tmp_path, damage):
    folder = write_evaluation(tmp_path / "eval", ("base", "hard"), cells=("hard-sample",))
    file = folder / "cells/hard/arithmetic/hard-sample/summary.json"
    write(file, json.loads(file.read_text()) | damage)
    results = Results(load([str(folder)]))
    assert results.difference(arm(results, "hard"), arm(results, "base"), "arithmetic", "hard-sample", 1) is None
    assert results.estimate(arm(results, "hard"), "arithmetic", "hard-sample", 1) is not None


def test_runs_that_differ_in_seed_alone_are_one_arm(tmp_path):
    for seed in range(3):
        write_run(tmp_path / f"soft-s{seed}", seed=seed)
    write_run(tmp_path / "other", seed=3, learning_rate=1e-3)
    arms = run_arms(load([str(tmp_path)]).runs)
    assert sorted(len(arm.members) for arm in arms) == [1, 3]
    assert {arm.label for arm in arms} == {"soft", "other"}
    assert len({arm.dash for arm in arms}) == 2


def test_the_same_seed_again_is_no_further_seed(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, seed=0)
    assert [len(arm.members) for arm in run_arms(load([str(tmp_path)]).runs)] == [1, 1]


def test_several_seeds_are_a_mean_with_their_range(tmp_path):
    for seed, reward in enumerate((10.0, 20.0, 60.0)):
        write_run(tmp_path / f"s{seed}", seed=seed, steps=4 + seed, changes={"reward": reward}, **{"learning_rate": 1})
    for seed in range(3):
        file = tmp_path / f"s{seed}/config.json"
        write(file, json.loads(file.read_text()) | {"steps": 4})
    (arm,) = run_arms(load([str(tmp_path)]).runs)
    (line,) = curve(arm, "reward")
    assert line.x == [1, 2, 3, 4]  # up to the last step that all seeds have
    assert line.y == pytest.approx([30.0] * 4)
    assert line.low == [10.0] * 4
    assert line.high == [60.0] * 4


def test_evaluated_seeds_are_one_arm(tmp_path):
    for seed in range(2):
        write_run(tmp_path / f"soft-{seed}", seed=seed)
    folder = write_evaluation(tmp_path / "eval", ("base", "soft-0", "soft-1"), runs=tmp_path)
    listed = json.loads((folder / "evaluation.json").read_text())
    listed["models"][2]["trained"]["seed"] = 1
    write(folder / "evaluation.json", listed)
    results = Results(load([str(tmp_path)]))
    assert [len(arm.members) for arm in results.arms] == [1, 2]
    place = folder / "cells/soft-1/arithmetic/hard-sample/summary.json"
    write(place, summary("soft-1", "hard-sample", [0] * PROBLEMS, SAMPLES))
    results = Results(load([str(tmp_path)]))
    estimate = results.estimate(results.arms[1], "arithmetic", "hard-sample", 1)
    assert estimate.seeds[1] == 0
    assert estimate.value == pytest.approx(estimate.seeds[0] / 2)
    assert estimate.low < estimate.value < estimate.high
    assert estimate.deviation == pytest.approx(estimate.seeds[0] / 2**0.5)


def test_models_of_unknown_seed_stay_apart():
    """Equal in all that is said of them, which is no proof of anything."""
    models = [Model(name, "runs/x", {"mode": "soft", "base": "tiny"}) for name in ("a", "b")]
    assert len(model_arms(models)) == 2
    known = [Model(m.name, m.path, m.trained | {"seed": i}) for i, m in enumerate(models)]
    assert len(model_arms(known)) == 1


@pytest.mark.parametrize("window", [1, 3, 10])
def test_running_mean_is_of_the_last_values(window):
    values = [float(i * i) for i in range(8)]
    expected = [np.mean(values[max(0, i + 1 - window) : i + 1]) for i in range(8)]
    assert running_mean(values, window) == pytest.approx(expected)
