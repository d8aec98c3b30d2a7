"""The quickstart end to end; and training improves the reward."""

from __future__ import annotations

import dataclasses
import json

import pytest

from softtokens.cli import main
from softtokens.cli.quickstart import MODES, train_config
from softtokens.config.commands import QuickstartConfig
from softtokens.config.task import TaskConfig
from softtokens.config.thought import PAPER_SETTINGS, ThoughtConfig
from softtokens.config.train import TrainConfig
from softtokens.evaluate.results import read_results
from softtokens.train.loop import train


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quickstart_trains_and_evaluates_every_mode(tmp_path, capsys):
    run = tmp_path / "run"
    flags = ["--output", str(run), "--steps", "2", "--problems", "6", "--samples", "4"]
    assert main(["quickstart", *flags]) == 0
    printed = capsys.readouterr().out
    results = json.loads((run / "results.json").read_text())
    assert list(results["phases"]) == ["base", *MODES]
    evaluation = read_results(run / "evaluation")
    assert evaluation.models == ["base", *MODES]
    for name in ("base", *MODES):
        assert [evaluation.summaries[name, "arithmetic", setting]["problems"] for setting in PAPER_SETTINGS] == [6] * 6
        assert evaluation.summaries[name, "arithmetic", "soft-sample"]["samples"] == 4
        assert 0 <= evaluation.choices[name, "facts"]["accuracy"]["value"] <= 1
        assert (run / "evaluation/traces" / name / "arithmetic/soft-sample.jsonl").read_text().count("\n") == 6
        assert name in printed
        if name != "base":
            assert len((run / name / "metrics.jsonl").read_text().splitlines()) == 2
            assert (run / name / "checkpoints" / "last" / "model.safetensors").is_file()
    assert "run directory" in printed
    assert (run / "report.html").is_file()
    assert main(["quickstart", *flags]) == 2
    assert "already exists and is not empty" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_hard_training_raises_the_reward(tmp_path):
    """On the toy task the mean reward of sampled rollouts rises by tens of points within 30 updates. The test requires
    8, several times the standard error of a mean over 5 batches of 128 rollouts."""
    config = TrainConfig(
        output=str(tmp_path / "run"),
        thought=ThoughtConfig(mode="hard"),
        task=TaskConfig(limit=2000),
        steps=30,
        problems_per_step=8,
        group_size=16,
        learning_rate=1e-4,
        warmup_steps=5,
        max_thought_steps=64,
        max_answer_tokens=8,
        validate_every=0,
        save_every=30,
        device="cpu",
    )
    train(config)
    rewards = [json.loads(line)["reward"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 8


def test_the_modes_of_the_quickstart_share_one_recipe(tmp_path):
    configs = {mode: train_config(mode, tmp_path, QuickstartConfig()) for mode in MODES}
    for mode, config in configs.items():
        assert config.thought.mode == mode and config.thought.gamma == 0.33
        assert config.thought_weight == config.answer_weight == 1
        assert dataclasses.replace(config, thought=configs["hard"].thought, output="") == dataclasses.replace(
            configs["hard"], output=""
        )
