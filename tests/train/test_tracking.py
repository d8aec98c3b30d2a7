"""A failing tracker does not end a run, and metrics.jsonl is complete."""

import sys
import types

import pytest

from softtokens import cli
from train.test_resume import lines


def lost(*arguments, **options):
    raise ConnectionError("the network is gone")


@pytest.mark.parametrize("moment", ["init", "log", "finish"])
def test_a_lost_connection_is_logged_once(flags, tmp_path, text_rewards, monkeypatch, caplog, moment):
    logged = []
    run = types.SimpleNamespace(
        log=lost if moment == "log" else lambda metrics, step: logged.append(step),
        finish=lost if moment == "finish" else lambda: None,
    )
    wandb = types.ModuleType("wandb")
    wandb.init = lost if moment == "init" else lambda **options: run
    wandb.__spec__ = types.SimpleNamespace(name="wandb")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    assert cli.main(flags(tmp_path / "run", "--wandb", "project")) == 0
    assert [line["step"] for line in lines(tmp_path / "run/metrics.jsonl")] == list(range(1, 9))
    assert logged == (list(range(1, 9)) if moment == "finish" else [])
    assert caplog.text.count("wandb failed (the network is gone)") == 1


def test_a_run_that_goes_on_is_the_same_one_at_wandb(flags, tmp_path, text_rewards, monkeypatch):
    """Weights & Biases recognises a run only by its id."""
    started = []
    wandb = types.ModuleType("wandb")
    run = types.SimpleNamespace(log=lambda metrics, step: None, finish=lambda: None)
    wandb.init = lambda **options: started.append(options) or run
    wandb.__spec__ = types.SimpleNamespace(name="wandb")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for name in ("one", "other"):
        assert cli.main(flags(tmp_path / name, "--wandb", "project")) == 0
    assert cli.main(flags(tmp_path / "one", "--wandb", "project", "--resume")) == 0
    first, other, again = (options["id"] for options in started)
    assert first == again != other and len(first) >= 8
    assert all(options["resume"] == "allow" for options in started)


def test_tensorboard_that_fails_is_turned_off(flags, tmp_path, text_rewards, monkeypatch, caplog):
    from torch.utils.tensorboard import SummaryWriter

    monkeypatch.setattr(SummaryWriter, "add_scalar", lost)
    assert cli.main(flags(tmp_path / "run")) == 0
    assert len(lines(tmp_path / "run/metrics.jsonl")) == 8
    assert caplog.text.count("TensorBoard failed") == 1
