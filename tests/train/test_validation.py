"""Validation during training measures what an evaluation measures."""

import json
import math

import numpy as np
import pytest

from softtokens.config.evaluate import EvaluateConfig
from softtokens.config.task import TaskConfig
from softtokens.config.thought import ThoughtConfig
from softtokens.config.train import TrainConfig, ks_of
from softtokens.evaluate.results import read_results
from softtokens.evaluate.run import evaluate
from softtokens.models.checkpoint_paths import best_checkpoint
from softtokens.train.loop import train
from softtokens.train.validation import standard_error
from softtokens.types import UserError

LIMITS = {"max_thought_steps": 24, "max_answer_tokens": 6}
SETTINGS = ("hard-sample", "soft-sample", "soft-greedy", "as-trained")


def config_for(tmp_path, **changes) -> TrainConfig:
    settings = {
        "output": str(tmp_path / "run"), "thought": ThoughtConfig("soft"), "steps": 2, "group_size": 4,
        "learning_rate": 1e-4, "warmup_steps": 0, "validate_every": 1, "validation_problems": 12, "save_every": 1,
        "validation_settings": SETTINGS, "validation_samples": 3, "device": "cpu", "seed": 5,
    }  # fmt: skip
    return TrainConfig(**{**settings, **LIMITS, **changes})


def test_settings_give_what_an_evaluation_gives(tmp_path):
    run = train(config_for(tmp_path))
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    config = EvaluateConfig(
        models=(f"model={run}/checkpoints/last",), task=TaskConfig(split="validation", limit=12), settings=SETTINGS,
        samples=3, seed=5, device="cpu", output=str(tmp_path / "evaluation"), **LIMITS,
    )  # fmt: skip
    results = read_results(evaluate(config))
    for (_, _, cell), summary in results.summaries.items():
        for k in ks_of(summary["samples"]):
            solved = np.array(summary["right"]) if k == summary["samples"] == 1 else None
            assert logged[f"validation/{cell}/pass@{k}"] == pytest.approx(summary["pass@k"][str(k)]["value"]), cell
            if solved is not None:
                assert logged[f"validation/{cell}/pass@1_error"] == pytest.approx(standard_error(solved))
    assert logged["validation/accuracy"] == logged["validation/soft-greedy/pass@1"]  # the mode that is trained
    assert {key for key in logged if key.startswith("validation/soft-sample") and "error" not in key} == {
        f"validation/soft-sample/pass@{k}" for k in (1, 2, 3)
    }


def test_the_best_checkpoint_may_be_chosen_by_a_setting(tmp_path):
    run = train(config_for(tmp_path, best_by="hard-sample/pass@3", steps=3, learning_rate=1e-3))
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    values = [line["validation/hard-sample/pass@3"] for line in logged]
    assert best_checkpoint(run).resolve().name == f"step-{1 + int(np.argmax(values)):06d}"


def test_standard_errors():
    assert standard_error(np.array([0.0, 1.0, 1.0, 1.0])) == pytest.approx(0.25)
    assert math.isnan(standard_error(np.array([1.0])))
    assert ks_of(1) == [1] and ks_of(6) == [1, 2, 4, 6] and ks_of(8) == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_settings": ("hard",)}, "validation_settings is 'hard'"),
        ({"validation_settings": ("hard-greedy",) * 2}, "validation_settings has hard-greedy more than once"),
        ({"validation_samples": 0}, "validation_samples is 0; it must be at least 1"),
        ({"best_by": "hard-sample/pass@1"}, "best_by is 'hard-sample/pass@1'; it must be one of accuracy"),
        (
            {"best_by": "hard-greedy/pass@2", "validation_settings": ("hard-greedy",)},
            "it must be one of accuracy, hard-greedy/pass@1",
        ),
    ],
)
def test_settings_that_cannot_be_validated(changes, message):
    with pytest.raises(UserError, match=message):
        TrainConfig(**changes)
