"""What a resumed run may change, and runs that start from another run's checkpoint."""

import dataclasses
import json

import pytest

from softtokens import cli
from softtokens.config.fields import flat, free_settings
from softtokens.config.train import TrainConfig
from softtokens.models.checkpoint_paths import best_checkpoint
from softtokens.models.hf import load_policy
from softtokens.report.arms import recipe
from softtokens.train import loop
from softtokens.train.checkpoint import checkpoint_to_start_at
from softtokens.train.run_folder import check_output, open_run, resolved
from softtokens.types import UserError
from train.test_resume import assert_same_tensors, lines

FREE = free_settings(TrainConfig)
# a value other than the default for each setting
OTHERS = {
    "output": None, "model": "other", "thought.mode": "hard", "thought.tau": 0.3, "thought.gamma": 0.5,
    "thought.noise": "logits", "thought.top_k": 3, "thought.width": 2, "thought.weight_temperature": 0.5,
    "thought.concentration": 2.0, "thought.moi_beta": 2.0,
    "thought.estimator": "density", "thought.table_in_mean": "frozen",
    "task.name": "gsm8k", "task.split": "test", "task.limit": 5, "task.path": "x", "task.subset": "x", "task.seed": 1,
    "task.question": "q", "task.answer": "a", "task.template": "{question}", "task.grader": "math",
    "task.chat": True, "task.system": "Be brief.", "task.chat_kwargs": '{"a": 1}', "task.special_tokens": True,
    "endings.preset": "paper", "endings.thought_end": ("</think>",), "endings.forced_text": "So ",
    "reward.right": 1.0, "reward.wrong": 1.0, "reward.none": 1.0, "reward.functions": ("format",),
    "reward.weights": (2.0,), "antithetic": True, "seed": 1, "problems_per_step": 3, "group_size": 3,
    "max_thought_steps": 3, "max_answer_tokens": 3, "answer_temperature": 0.5, "learning_rate": 1e-5,
    "warmup_steps": 3, "schedule": "constant", "beta1": 0.5, "beta2": 0.5, "weight_decay": 0.1, "clip_norm": 0.5,
    "clip": "each", "thought_weight": 0.5, "answer_weight": 0.5, "spike_norm": 5.0, "clip_spikes": True,
    "max_skipped": 3, "keep_repro": 1, "decoding": "plain", "tokens_per_backward": 64, "term_norms_every": 3,
    "signal_every": 3,
    "validation": "x.jsonl", "validation_split": "x", "validation_problems": 5, "validate_every": 7,
    "validation_settings": ("hard-sample",), "validation_samples": 2, "best_by": "hard-sample/pass@1", "save_every": 7,
    "start": "runs/other@5", "resume": True, "logits_dtype": "bfloat16",
    "mask_unused": False, "device": "cpu", "scale.parallel": "fsdp",
    "scale.dtype": "bfloat16", "scale.activation_checkpointing": "always", "scale.lora_rank": 4,
    "scale.lora_alpha": 4.0, "scale.lora_targets": ("q_proj",), "wandb": "project",
}  # fmt: skip


def changed(config: TrainConfig, name: str, value) -> TrainConfig:
    outer, _, inner = name.partition(".")
    if inner:
        value = dataclasses.replace(getattr(config, outer), **{inner: value})
    return dataclasses.replace(config, **{outer: value})


def base_of(name: str, tmp_path) -> TrainConfig:
    """A run in which the setting can be changed at all."""
    config = TrainConfig(output=str(tmp_path / "run"))
    if name in ("task.system", "task.chat_kwargs"):
        return changed(config, "task.chat", True)
    if name == "best_by":
        return changed(config, "validation_settings", ("hard-sample",))
    if name == "reward.weights":
        return changed(config, "reward.functions", ("grade",))
    return changed(config, "scale.lora_rank", 2) if name in ("scale.lora_alpha", "scale.lora_targets") else config


@pytest.mark.parametrize("name", sorted(flat(resolved(TrainConfig())).keys() - {"steps"}))
def test_a_resumed_run_may_change_what_does_not_change_the_gradient(tmp_path, name):
    before = base_of(name, tmp_path)
    open_run(before)
    after = dataclasses.replace(before, resume=True)
    if name == "output":
        after = dataclasses.replace(after, output=str(tmp_path / "." / "run"))
    elif name != "resume":
        after = changed(after, name, OTHERS[name])
    if name in FREE:
        check_output(after)
        open_run(after)
        recorded = json.loads((tmp_path / "run/config.json").read_text())
        assert name in ("output", "resume") or recorded == resolved(after)
    else:
        with pytest.raises(UserError, match=f"another configuration .*{name} was .*--from"):
            check_output(after)
    # seeds of a run that differ in nothing else are one arm of the report
    assert (recipe(resolved(before)) == recipe(resolved(after))) == (name in FREE or name == "seed")


def test_steps_may_grow_and_not_shrink(tmp_path):
    before = TrainConfig(output=str(tmp_path / "run"), steps=10)
    open_run(before)
    check_output(dataclasses.replace(before, steps=20, resume=True))
    with pytest.raises(UserError, match="holds a run of 10 steps, and steps is 5; a resumed run may only raise it"):
        check_output(dataclasses.replace(before, steps=5, resume=True))


def test_a_finished_run_goes_on_with_more_steps(flags, tmp_path, text_rewards, caplog):
    """With a constant rate it equals a run with that many steps from the start."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    constant = ("--schedule", "constant")
    assert cli.main(flags(whole, *constant)) == 0
    assert cli.main(flags(run, *constant, "--steps", "4")) == 0
    assert cli.main(flags(run, *constant, "--resume")) == 0
    assert_same_tensors(*(r / "checkpoints/last/model.safetensors" for r in (run, whole)))
    assert "steps was raised" not in caplog.text
    assert cli.main(flags(tmp_path / "cosine", "--steps", "4")) == 0
    assert cli.main(flags(tmp_path / "cosine", "--resume")) == 0
    assert "steps was raised: from here the learning rate follows the cosine schedule of 8 steps" in caplog.text


def test_a_run_out_of_memory_goes_on_with_smaller_passes(flags, tmp_path, text_rewards):
    run = tmp_path / "run"
    assert cli.main(flags(run, "--steps", "4")) == 0
    smaller = ("--tokens-per-backward", "20", "--save-every", "1", "--validate-every", "2", "--decoding", "plain")
    assert cli.main(flags(run, *smaller, "--resume")) == 0
    assert len(lines(run / "metrics.jsonl")) == 8


def test_other_validation_problems_start_the_best_anew(flags, tmp_path, text_rewards):
    run = tmp_path / "run"
    assert cli.main(flags(run, "--steps", "4")) == 0
    assert cli.main(flags(run, "--validation-problems", "2", "--validate-every", "8", "--resume")) == 0
    assert json.loads((run / "checkpoints/last/trainer.json").read_text())["best_step"] == 8


def test_a_crash_before_the_next_save_keeps_no_record_of_other_validation_problems(
    flags, tmp_path, text_rewards, monkeypatch
):
    run = tmp_path / "run"
    assert cli.main(flags(run, "--steps", "4")) == 0
    fewer = ("--validation-problems", "2", "--validate-every", "8", "--resume")

    def crash(*arguments):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", crash)
        assert cli.main(flags(run, *fewer)) == 1
    assert cli.main(flags(run, *fewer)) == 0
    assert json.loads((run / "checkpoints/last/trainer.json").read_text())["best_step"] == 8


def test_a_fork_goes_on_from_where_it_began(flags, tmp_path, text_rewards, monkeypatch, capsys):
    """`@last` of a running run changes, so the fork records the step, and --from is given only once."""
    source, fork = tmp_path / "source", tmp_path / "fork"
    constant = ("--schedule", "constant", "--validate-every", "0")
    assert cli.main(flags(source, *constant, "--steps", "6")) == 0

    def crash(*arguments):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", crash)
        assert cli.main(flags(fork, *constant, "--from", f"{source}@last")) == 1
    assert json.loads((fork / "config.json").read_text())["start"] == f"{source}@6"
    assert cli.main(flags(source, *constant, "--steps", "7", "--resume")) == 0
    monkeypatch.chdir(tmp_path)
    for again in (["--from", "source@last"], ["--from", f"{source}@6"], []):
        assert cli.main(flags(fork, *constant, *again, "--resume")) == 0
    assert [line["step"] for line in lines(fork / "metrics.jsonl")] == [7, 8]
    capsys.readouterr()
    assert cli.main(flags(fork, *constant, "--from", f"{source}@7", "--resume")) == 2
    assert f"start was {source}@6, is {source}@7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lora-rank", "2"], "scale.lora_rank is 2, where '{run}' has 0; give the same"),
        (
            ["--model", "tiny"],
            "from names a checkpoint of another model or with other adapters: model is 'tiny', where",
        ),
    ],
)
def test_a_fork_is_of_the_same_model(flags, tmp_path, text_rewards, capsys, more, message):
    run = tmp_path / "run"
    assert cli.main(flags(run, "--steps", "2")) == 0
    assert cli.main(flags(tmp_path / "fork", "--from", f"{run}@2", *more)) == 2
    assert message.format(run=run) in capsys.readouterr().err


def test_every_command_knows_a_checkpoint_by_the_same_name(flags, tmp_path, text_rewards):
    run = tmp_path / "run"
    assert cli.main(flags(run, "--validate-every", "0")) == 0
    for name in (f"{run}@6", f"{run}@last", f"{run}/checkpoints/step-000006"):
        load_policy(name)
        assert checkpoint_to_start_at(name)[0].parent == run / "checkpoints"
    assert best_checkpoint(run.with_name("run@6")) == run / "checkpoints/step-000006"


def test_state_of_an_optimizer_that_does_not_fit_is_said_in_a_sentence(flags, tmp_path, text_rewards, capsys):
    run = tmp_path / "run"
    assert cli.main(flags(run, "--steps", "2")) == 0
    (run / "config.json").unlink()  # so the adapters cannot be compared
    assert cli.main(flags(tmp_path / "fork", "--from", f"{run}@2", "--lora-rank", "2")) == 1
    error = capsys.readouterr().err
    assert "does not fit these weights: Missing key in checkpoint" in error and "Traceback" not in error


def test_a_run_begins_at_a_checkpoint_of_another(flags, tmp_path, text_rewards):
    first, second = tmp_path / "first", tmp_path / "second"
    assert cli.main(flags(first)) == 0
    assert cli.main(flags(second, "--from", f"{first}@6", "--learning-rate", "1e-4", "--mode", "hard")) == 0
    logged = lines(second / "metrics.jsonl")
    assert [line["step"] for line in logged] == [7, 8]
    assert json.loads((second / "config.json").read_text())["start"] == f"{first}@6"
    # with the same settings, it equals the run it started from
    again = tmp_path / "again"
    assert cli.main(flags(again, "--from", f"{first}@6")) == 0
    assert_same_tensors(*(r / "checkpoints/last/model.safetensors" for r in (again, first)))
    assert (first / "checkpoints/step-000006").is_dir()  # the first run is unchanged


@pytest.mark.parametrize("which", ["last", "best", ""])
def test_checkpoints_by_name(flags, tmp_path, text_rewards, which):
    run = tmp_path / "run"
    assert cli.main(flags(run)) == 0
    folder, progress = checkpoint_to_start_at(f"{run}@{which}" if which else str(run))
    assert folder == (run / "checkpoints" / (which or "last")).resolve()
    assert progress.best_step is None and progress.metrics_bytes == 0 and progress.step > 0


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("{run}@5", "which is not a checkpoint; give RUN@STEP, steps in '{run}': 6, 8"),
        ("{run}@first", "which is not a checkpoint"),
        ("{run}/nowhere@6", "but there is no run '{run}/nowhere'; give RUN@STEP"),
        ("{run}@8", "which has 8 updates behind it; steps is 8 and includes them, so raise it"),
    ],
)
def test_what_a_run_cannot_begin_at(flags, tmp_path, text_rewards, capsys, start, message):
    run = tmp_path / "run"
    assert cli.main(flags(run, "--validate-every", "0")) == 0
    assert cli.main(flags(tmp_path / "other", "--from", start.format(run=run))) == 2
    assert message.format(run=run) in capsys.readouterr().err
