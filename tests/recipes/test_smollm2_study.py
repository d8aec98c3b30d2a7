"""A study stops by itself at the end of a part, and the next call continues from there."""

import json
import sys
from pathlib import Path

import pytest

from softtokens import cli

ROOT = Path(__file__).resolve().parents[2]
TRAIN_FLAGS = "--steps 6 --problems-per-step 2 --group-size 8 --max-thought-steps 8 --max-answer-tokens 4"
TRAIN_FLAGS += " --validate-every 0 --limit 20"
EVALUATE_FLAGS = "--limit 4 --samples 2 --settings hard-greedy hard-sample"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from recipes.smollm2 import study

    return study


def options_of(study, monkeypatch, *flags):
    """The jobs that a command makes."""
    made = []
    monkeypatch.setattr(study, "run_part", lambda listed, folder, is_over: made.extend(listed) or 0)
    study.main(["--train", "arithmetic", "--test", "arithmetic", *flags])
    return made


def test_every_command_is_one_that_softtokens_takes(study, monkeypatch, capsys):
    jobs = options_of(study, monkeypatch, "--seeds", "3", "4")
    names = [job.name for job in jobs]
    runs = [f"{mode}-{seed}" for seed in (3, 4) for mode in ("hard", "soft", "fuzzy")]
    assert names == ["prepare", "warm", *runs[:3], "evaluation-3", *runs[3:], "evaluation-4", "comparison"]
    for job in jobs[2:-1]:
        assert cli.main([*job.command[3:], "--dry-run"]) == 0
        config = json.loads(capsys.readouterr().out)
        assert (config["max_thought_steps"], config["max_answer_tokens"]) == (128, 32)
        assert config["task"]["template"].startswith("<|im_start|>user\n{question}")
    assert config["models"] == ["base=runs/study/warm", *(f"{run}=runs/study/{run}" for run in runs)]


def test_parts_stop_and_the_next_one_goes_on(study, monkeypatch, tmp_path):
    config = tmp_path / "plain.toml"
    config.write_text("max_thought_steps = 8\nmax_answer_tokens = 4\n")
    flags = ["--model", "tiny", "--seeds", "0", "--modes", "soft", "--folder", str(tmp_path), "--config", str(config)]
    with monkeypatch.context() as patch:
        jobs = options_of(study, patch, *flags, "--train-flags", TRAIN_FLAGS, "--evaluate-flags", EVALUATE_FLAGS)
    metrics = tmp_path / "soft-0" / "metrics.jsonl"

    def steps() -> list[int]:
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        return [json.loads(line)["step"] for line in lines]

    assert study.run_part(jobs, tmp_path, is_over=lambda: len(steps()) >= 2) == study.GO_ON
    first = steps()
    assert 2 <= len(first) < 6
    assert list((tmp_path / "soft-0" / "checkpoints").iterdir())
    assert study.run_part(jobs, tmp_path, is_over=lambda: False) == 0
    assert steps() == [1, 2, 3, 4, 5, 6]
    (compared,) = json.loads((tmp_path / "comparison.json").read_text())["comparisons"][:1]
    assert compared


def test_a_job_that_fails_ends_the_part_with_its_code_and_is_not_done(study, tmp_path, capfd):
    fails = study.Job("fails", (sys.executable, "-c", "raise SystemExit(3)"))
    never = study.Job("never", (sys.executable, "-c", "print('ran')"))
    assert study.run_part([fails, never], tmp_path, is_over=lambda: False) == 3
    assert not list((tmp_path / "done").iterdir())
    shown = capfd.readouterr()
    assert "fails failed with exit code 3" in shown.err
    assert "ran" not in shown.out


def test_a_part_that_is_too_short_is_refused(study, capsys):
    with pytest.raises(SystemExit):
        study.main(["--train", "a", "--test", "b", "--minutes", "0.5"])
    assert "--minutes is 0.5" in capsys.readouterr().err
