"""The paper's numbers appear next to the user's only where model, training and test are the paper's."""

from __future__ import annotations

import pytest

from softtokens.report import paper
from softtokens.report.arms import model_arms
from softtokens.report.sources import Model

LLAMA = "meta-llama/Llama-3.2-3B-Instruct"
SOFT = Model("soft", "runs/soft", {"mode": "soft", "base": LLAMA, "task": "gsm8k"})
FUZZY = Model("fuzzy", "runs/fuzzy", {"mode": "fuzzy", "base": LLAMA, "task": "gsm8k"})
BASE = Model("base", LLAMA, None)
COLUMNS = [("hard-greedy", 1), ("hard-sample", 1), ("hard-sample", 8), ("hard-sample", 32)]


def test_rows_of_the_same_model_training_and_test():
    rows = paper.six_settings(model_arms([BASE, SOFT]), "gsm8k", COLUMNS)
    assert [[entry.text for entry in row] for row in rows] == [
        ["paper: base", "71.4", "45.0", "", "96.8"],
        ["paper: gsm8k-soft", "77.2", "70.5", "", "97.9"],
    ]
    assert rows[1][1].below == "± 0.9"
    assert all(row[0].mark == "paper" for row in rows)


@pytest.mark.parametrize(
    ("model", "task"),
    [
        (SOFT, "arithmetic"),
        (Model("soft", "x", {"mode": "soft", "base": "tiny", "task": "gsm8k"}), "gsm8k"),
        (Model("soft", "x", {"mode": "soft", "base": LLAMA, "task": "problems.jsonl"}), "gsm8k"),
        (Model("base", "meta-llama/Llama-3.2-1B-Instruct", None), "gsm8k"),
        (Model("x", LLAMA, {"mode": None}), "gsm8k"),
    ],
)
def test_nothing_beside_another_model_training_or_test(model, task):
    assert paper.six_settings(model_arms([model]), task, COLUMNS) == []


def test_out_of_domain():
    rows = paper.out_of_domain(model_arms([SOFT]), ["facts", "arc_challenge"])
    expected = ["paper: gsm8k-soft", "", "", "", "73.0", "2.89", ""]
    assert [entry.text for entry in rows[0]] == expected
    assert paper.out_of_domain(model_arms([SOFT]), ["facts"]) == []


def test_ablations_are_those_of_fuzzy_training_on_gsm8k():
    assert paper.ablation(FUZZY, "gsm8k", "gamma", "hard-greedy")[3] == pytest.approx((3.0, 0.654, 0.019))
    assert [value for value, _, _ in paper.ablation(FUZZY, "gsm8k", "tau", "soft-sample")] == [1e-4, 1e-3, 1e-2, 1e-1]
    assert paper.ablation(SOFT, "gsm8k", "gamma", "hard-greedy") == []
    assert paper.ablation(FUZZY, "math500", "gamma", "hard-greedy") == []


def test_every_setting_of_the_tables_is_there():
    for name in ("table_3", "table_4", "table_5"):
        for row in paper.tables()["tables"][name]["rows"]:
            assert {f"{code}@1" for code in paper.CODES.values()} <= row.keys()
