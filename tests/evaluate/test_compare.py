import json
from pathlib import Path

import numpy as np
import pytest

from softtokens.cli.tables import comparison_notes
from softtokens.config.evaluate import CompareConfig
from softtokens.evaluate.compare import compare
from softtokens.evaluate.intervals import holm, paired_difference
from softtokens.evaluate.passk import pass_at_k
from softtokens.files import write_json
from softtokens.types import UserError

RIGHT = {  # of 4 samples, on 6 problems
    ("base", "hard-sample"): [0, 1, 2, 3, 4, 0],
    ("base", "hard-sample_T=0.6"): [1, 0, 3, 2, 4, 1],
    ("base", "soft-sample"): [2, 2, 2, 2, 2, 2],
    ("hard", "hard-sample"): [3, 4, 4, 4, 4, 2],
    ("hard", "hard-sample_T=0.6"): [4, 2, 4, 3, 4, 4],
}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "eval"
    cells = list(dict.fromkeys(cell for _, cell in RIGHT))
    names = {"models": [{"name": "base"}, {"name": "hard"}], "tasks": [{"name": "sums"}]}
    write_json(root / "evaluation.json", {"schema": 1, "config": {}, **names, "settings": [*cells, "hard-greedy"]})
    for (model, cell), right in RIGHT.items():
        summary = {"cell": cell, "setting": cell.split("_")[0], "samples": 4, "right": right}
        summary["votes"] = [[[c, 1], [4 - c, 0]][(c == 0) : 2 - (c == 4)] for c in right]
        write_json(root / "cells" / model / "sums" / cell / "summary.json", summary)
    greedy = {"cell": "hard-greedy", "setting": "hard-greedy", "samples": 1, "right": [1, 0] * 3, "votes": [[]] * 6}
    write_json(root / "cells/hard/sums/hard-greedy/summary.json", greedy)
    for model, nll in (("base", [1.0, 2.0, 3.0]), ("hard", [1.5, 2.5, 3.0])):
        items = {"correct": [1, 0, 1], "correct_normalized": [1, 1, 1], "nll_per_token": nll}
        write_json(root / "choices" / model / "facts.json", {"per_item": items})
    return str(root)


def arms(comparison):
    return [(c["model"], c["cell"], c["reference_model"], c["reference_cell"]) for c in comparison["comparisons"]]


def test_models_in_the_same_cell(folder):
    comparison = compare(CompareConfig(folder, against="base", metrics=("pass@1", "pass@4")))
    cells = ["hard-sample", "hard-sample_T=0.6"]
    assert arms(comparison) == [("hard", cell, "base", cell) for cell in cells] * 2
    for c in comparison["comparisons"]:
        k = int(c["metric"][-1])
        a, b = (pass_at_k(RIGHT[model, c["cell"]], 4, k) for model in ("hard", "base"))
        assert {key: c[key] for key in ("value", "low", "high", "p")} == {
            key: value for key, value in paired_difference(a, b).items() if key in ("value", "low", "high", "p")
        }
        assert c["of"] - c["of_reference"] == pytest.approx(c["value"])
    assert [c["p_holm"] for c in comparison["comparisons"]] == holm([c["p"] for c in comparison["comparisons"]])
    json.dumps(comparison, allow_nan=False)


def test_the_first_model_is_the_default(folder):
    assert compare(CompareConfig(folder))["against"] == "base"


def test_settings_of_the_same_model(folder):
    comparison = compare(CompareConfig(folder, against="hard-sample", models=("base",)))
    assert arms(comparison) == [("base", cell, "base", "hard-sample") for cell in ("hard-sample_T=0.6", "soft-sample")]


def test_everything_with_one_cell(folder):
    comparison = compare(CompareConfig(folder, against="base/soft-sample"))
    assert {(m, c) for m, c, *_ in arms(comparison)} == {*RIGHT, ("hard", "hard-greedy")} - {("base", "soft-sample")}
    assert {(m, c) for *_, m, c in arms(comparison)} == {("base", "soft-sample")}


def test_what_cannot_be_compared_is_said(folder):
    comparison = compare(CompareConfig(folder, against="hard-sample", models=("hard",), metrics=("pass@2", "pass@8")))
    reasons = [(c["metric"], c["cell"], c["reason"]) for c in comparison["skipped"]]
    needs = "pass@2 needs 2 samples per problem, and hard-greedy has 1 (greedy settings are deterministic)"
    assert ("pass@2", "hard-greedy", needs) in reasons
    assert all("pass@8 needs 8 samples per problem" in reason for metric, _, reason in reasons if metric == "pass@8")
    with pytest.raises(UserError, match="there is nothing to compare with 'base': pass@8 needs 8 samples"):
        compare(CompareConfig(folder, metrics=("pass@8",), cells=("hard-sample",)))


def test_votes(folder):
    comparison = compare(CompareConfig(folder, metrics=("maj@4",), cells=("hard-sample",)))
    assert comparison["comparisons"][0]["of"] == pytest.approx((1 + 1 + 1 + 1 + 1 + 0.5) / 6)
    assert comparison["comparisons"][0]["of_reference"] == pytest.approx((0 + 0 + 0.5 + 1 + 1 + 0) / 6)


def test_multiple_choice(folder):
    comparison = compare(CompareConfig(folder, metrics=("nll_per_token", "accuracy")))
    nll, accuracy = comparison["comparisons"]
    assert (nll["task"], nll["cell"], nll["value"]) == ("facts", None, pytest.approx(1 / 3))
    assert (accuracy["value"], accuracy["p"]) == (0.0, 1.0)


def test_the_best_of_a_grid_is_chosen_on_the_other_half(folder):
    """On odd problems T = 1 is better for hard, on even ones T = 0.6; each is measured where it was not chosen."""
    comparison = compare(CompareConfig(folder, best=True, cells=()))
    (c,) = comparison["comparisons"]
    plain, cool = (np.array(RIGHT["hard", cell]) / 4 for cell in ("hard-sample", "hard-sample_T=0.6"))
    assert plain[1::2].mean() > cool[1::2].mean() and cool[::2].mean() > plain[::2].mean()
    expected = np.where(np.arange(6) % 2 == 0, plain, cool)
    assert c["of"] == pytest.approx(expected.mean())
    assert c["chosen"] == ["hard-sample", "hard-sample_T=0.6"]
    assert (c["cell"], c["reference_cell"]) == ("hard-sample", "hard-sample")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"against": "soft"}, "against is 'soft'; give a model (base, hard), a cell (hard-sample, "),
        ({"against": "soft/hard-sample"}, "against is 'soft/hard-sample'"),
        ({"models": ("soft",)}, "models is 'soft'; the evaluation has base, hard"),
        ({"tasks": ("gsm8k",)}, "tasks is 'gsm8k'; the evaluation has sums, facts"),
        ({"cells": ("x",)}, "cells is 'x'; the evaluation has hard-sample"),
        ({"against": "hard-sample", "metrics": ("accuracy",)}, "accuracy is measured once per model; name a model"),
        ({"against": "base", "models": ("base",)}, "nothing that is finished matches what was asked for"),
    ],
)
def test_refused_in_words(folder, options, message):
    with pytest.raises(UserError) as error:
        compare(CompareConfig(folder, **options))
    assert message in str(error.value)


def test_a_folder_that_is_no_evaluation(tmp_path):
    with pytest.raises(UserError, match=r"holds no evaluation\.json; give a folder that softtokens evaluate wrote"):
        compare(CompareConfig(str(tmp_path)))


def change_choices(folder, model, **changes):
    file = Path(folder) / "choices" / model / "facts.json"
    content = json.loads(file.read_text())
    content["per_item"] |= changes.pop("per_item", {})
    write_json(file, content | changes)


@pytest.mark.parametrize("changes", [{"sha256": "other"}, {"items": 4}, {"source": "lm-eval"}, {"limit": 3}])
def test_other_items_are_not_paired(folder, changes):
    change_choices(folder, "hard", **changes)
    comparison = compare(CompareConfig(folder, metrics=("pass@1", "accuracy")))
    assert {c["metric"] for c in comparison["comparisons"]} == {"pass@1"}
    assert [c["reason"] for c in comparison["skipped"]] == [
        "accuracy was measured on other items, or with other options, than those of the reference"
    ]


@pytest.mark.parametrize(
    ("metric", "values", "reason"),
    [
        ("nll_per_token", [1.0, None, 2.0], "nll_per_token could not be measured on 1 of 3 items"),
        ("accuracy_normalized", None, "accuracy_normalized could not be measured on any items"),
    ],
)
def test_items_without_a_value_are_not_compared(folder, metric, values, reason):
    per_item = {"correct_normalized" if values is None else metric: values}
    change_choices(folder, "hard", per_item=per_item)
    with pytest.raises(UserError, match=reason):
        compare(CompareConfig(folder, metrics=(metric,)))


def test_a_newer_summary_is_not_guessed_at(folder):
    file = Path(folder) / "cells/hard/sums/hard-sample/summary.json"
    write_json(file, json.loads(file.read_text()) | {"schema": 2})
    with pytest.raises(UserError, match=r"summary\.json has schema 2, this version reads 1"):
        compare(CompareConfig(folder))


def test_what_is_said_below_the_tables(folder):
    one = comparison_notes(compare(CompareConfig(folder, cells=("hard-sample",))))
    assert list(one) == ["Intervals are over problems, not corrected, and know nothing of other training seeds."]
    assert next(comparison_notes(compare(CompareConfig(folder)))).startswith("2 comparisons, so read p (Holm)")
