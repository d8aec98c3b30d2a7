"""A run on two processes equals the run on one: same rollouts, same parameters up to rounding."""

import functools
import json
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from softtokens import cli
from softtokens.models.hf import load_policy
from softtokens.types import UserError
from train.processes import free_port, of_rank, run_in_two
from train.test_resume import lines, without_times

MODES = ("hard", "soft", "fuzzy")
SHORT = ("--steps", "3", "--group-size", "8", "--validate-every", "2", "--term-norms-every", "2", "--warmup-steps", "0")
SHORT += ("--signal-every", "2")  # with two processes, each has one half
ROUNDING = ("grad_norm", "loss", "signal", "mismatch", "entropy", "thought/")


@pytest.fixture
def together(tmp_path):
    """Do training runs in two processes, both taking part in each."""

    return functools.partial(run_in_two, tmp_path)


def assert_same_up_to_rounding(run: Path, expected: Path) -> None:
    assert (run / "samples.jsonl").read_text() == (expected / "samples.jsonl").read_text()
    for ours, theirs in zip(without_times(run), without_times(expected), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            tolerance = {"rel": 1e-3, "abs": 1e-3} if name.startswith(ROUNDING) else {"rel": 1e-6}
            expected_value = value if value is None else pytest.approx(value, **tolerance, nan_ok=True)
            assert ours[name] == expected_value, name
    settings = json.loads((run / "config.json").read_text())
    file = "adapter_model.safetensors" if settings["scale"]["lora_rank"] else "model.safetensors"
    ours, theirs = (load_file(r / "checkpoints/last" / file) for r in (run, expected))
    # half of the adapters start at 0, and the others hardly move beside their random start
    start = load_file(Path(settings["model"]) / file) if file == "model.safetensors" else {}
    theirs = {name: x for name, x in theirs.items() if start or "lora_B" in name}
    assert ours.keys() >= theirs.keys()
    moved = sum(float((theirs[n] - start.get(n, 0)).square().sum()) for n in theirs) ** 0.5
    apart = sum(float((theirs[n] - ours[n]).square().sum()) for n in theirs) ** 0.5
    # Adam turns a gradient entry of rounding size into a whole step either way, so few entries may differ by much
    assert moved > 0.01
    assert apart < 0.02 * moved, apart / moved


@pytest.fixture
def compare(flags, tmp_path, text_rewards, together):
    """Compare runs in one process and in two; the latter get more flags."""

    def compare(*cases: tuple[tuple[str, ...], tuple[str, ...]], **options) -> None:
        several = [flags(tmp_path / f"two{i}", *SHORT, *same, *more) for i, (same, more) in enumerate(cases)]
        together(*several, **options)
        alone = {same: tmp_path / f"alone{i}" for i, same in enumerate(dict.fromkeys(same for same, _ in cases))}
        for same, run in alone.items():
            assert cli.main(flags(run, *SHORT, *same)) == 0
        for i, (same, _) in enumerate(cases):
            assert_same_up_to_rounding(tmp_path / f"two{i}", alone[same])

    return compare


def test_shards_do_what_one_process_does(compare):
    compare((("--mode", "soft"), ("--parallel", "fsdp")))


def test_signal_measured_by_shards_is_that_of_one_process(model_folder, data_file, tmp_path, text_rewards, together):
    """The sketch of sharded gradients equals that of whole ones."""
    flags = ["signal", "--model", str(model_folder), "--task", str(data_file), "--template", "User: {question}"]
    flags += ["--grader", "exact", "--group-size", "4", "--max-thought-steps", "5", "--max-answer-tokens", "4"]
    flags += ["--batches", "3", "--mode", "soft", "--sketch", "512", "--device", "cpu"]
    together([*flags, "--output", str(tmp_path / "two"), "--parallel", "fsdp"])
    assert cli.main([*flags, "--output", str(tmp_path / "one")]) == 0
    ours, theirs = (json.loads((tmp_path / name / "signal.json").read_text()) for name in ("two", "one"))
    for term, expected in theirs["settings"][0]["terms"].items():
        measured = {name: value for name, value in expected.items() if value is not None}
        assert {name: ours["settings"][0]["terms"][term][name] for name in measured} == pytest.approx(
            measured, rel=1e-3, abs=1e-4
        ), term


@pytest.mark.slow
def test_every_mode_and_way_does_what_one_process_does(compare):
    compare(*((("--mode", mode), ("--parallel", way)) for mode in MODES for way in ("ddp", "fsdp")))


@pytest.mark.slow
@pytest.mark.parametrize("local", [1, 2])
def test_shards_of_each_machine(compare, local):
    """Two machines of one process each, as far as the processes know: replicas only. And one machine of two."""
    compare((("--mode", "soft"), ("--parallel", "hsdp")), local=local)


@pytest.mark.slow
def test_what_shards_may_be_combined_with(compare):
    # processes have different numbers of parts
    parts = ("--tokens-per-backward", "20", "--activation-checkpointing", "always")
    compare(
        (("--clip", "each"), ("--parallel", "fsdp", *parts)),
        (("--lora-rank", "4"), ("--parallel", "fsdp")),
        (("--clip-spikes", "--spike-norm", "3.0"), ("--parallel", "ddp")),
    )


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(flags, tmp_path, text_rewards, together):
    """Two processes save shards at step 2 of 3 and one continues; and the reverse."""
    whole, two, one = (tmp_path / name for name in ("whole", "two", "one"))
    assert cli.main(flags(whole, *SHORT, "--save-every", "2")) == 0
    together(flags(two, *SHORT, "--save-every", "2", "--parallel", "fsdp"))
    assert len(list((two / "checkpoints/step-000002/optimizer").iterdir())) == 2
    back_to(two, step=2)
    assert cli.main(flags(two, *SHORT, "--save-every", "2", "--resume")) == 0
    assert_same_up_to_rounding(two, whole)

    assert cli.main(flags(one, *SHORT, "--save-every", "2")) == 0
    back_to(one, step=2)
    together(flags(one, *SHORT, "--save-every", "2", "--parallel", "fsdp", "--resume"))
    assert_same_up_to_rounding(one, whole)
    assert load_policy(one).embedding_rms == load_policy(whole).embedding_rms


KILLED = """
import os, signal
from softtokens.train import MODULE
act, calls = MODULE.FUNCTION, []
def killed(*arguments, **options):
    calls.append(1)
    if os.environ["RANK"] == "RANK_TO_KILL" and len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return act(*arguments, **options)
MODULE.FUNCTION = killed
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "rank", "module", "function"),
    [
        ("ddp", 1, "collect", "_sample"),
        ("fsdp", 1, "checkpoint", "_save_optimizer"),
        # the other moments were tried once: see docs/reliability.md
    ],
)
def test_one_of_two_is_killed(flags, tmp_path, start, text_rewards, together, way, rank, module, function):
    """The other process exits too, with the reason, and both resume from the last checkpoint."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    settings = (*SHORT, "--save-every", "1", "--parallel", way)
    hook = KILLED.replace("MODULE", module).replace("FUNCTION", function).replace("RANK_TO_KILL", str(rank))
    port = str(free_port())
    both = [start(flags(run, *settings), hook, MASTER_PORT=port, **of_rank(i)) for i in range(2)]
    assert both[rank].wait(timeout=120) == -signal.SIGKILL
    _, output = both[1 - rank].communicate(timeout=120)
    assert both[1 - rank].returncode == 1
    assert "lost another process of the run" in output, output
    together(flags(run, *settings, "--resume"))
    assert cli.main(flags(whole, *SHORT, "--save-every", "1")) == 0
    assert_same_up_to_rounding(run, whole)


FULL = """
import os, time, torch
from softtokens.train import gradient
from softtokens.world import peers
act, calls, tell = gradient._part, [], peers.Peers.tell
def full(*arguments):
    calls.append(1)
    if os.environ["RANK"] == "1" and len(calls) == 2:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return act(*arguments)
def tell_and_linger(self, error):
    tell(self, error)
    time.sleep(60)
gradient._part, peers.Peers.tell = full, tell_and_linger
"""


@pytest.mark.slow
def test_a_process_that_waits_for_one_out_of_memory_is_told(flags, tmp_path, start):
    """In the middle of a pass over shards; the connection to the one that failed is still open."""
    port = str(free_port())
    settings = (*SHORT, "--parallel", "fsdp", "--tokens-per-backward", "20")
    both = [start(flags(tmp_path / "run", *settings), FULL, MASTER_PORT=port, **of_rank(i)) for i in range(2)]
    _, message = both[0].communicate(timeout=120)
    assert both[0].returncode == 1
    assert "process 1 failed: CUDA out of memory" in message, message
    assert both[1].poll() is None  # it would have been waited for


def back_to(run: Path, *, step: int) -> None:
    """As if the run had been killed before its later checkpoints."""
    import shutil

    for folder in (run / "checkpoints").glob("step-*"):
        if int(folder.name[5:]) > step:
            shutil.rmtree(folder)
    assert len(lines(run / "metrics.jsonl")) > step


def test_more_processes_than_rollouts_are_refused(flags, tmp_path, monkeypatch, capsys):
    from softtokens.train import loop, run_folder
    from softtokens.world import processes
    from softtokens.world.launch import Launch

    monkeypatch.setattr(processes.World, "gather", lambda self, value: [value])  # there are no other processes
    config, _ = cli.parse("train", flags(tmp_path / "run")[1:])
    with pytest.raises(Exception, match="7 processes for problems_per_step \\* group_size = 6 rollouts; start fewer"):
        loop._train(
            config,
            processes.World(Launch(0, 7, 0, 7), loop.torch.device("cpu")),
            None,
            run_folder.RunLock(tmp_path / "run"),
            None,
            None,
        )


def test_processes_without_an_address_to_meet_at_are_refused(monkeypatch):
    from softtokens.world.launch import Launch
    from softtokens.world.processes import join

    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match="MASTER_ADDR is not set, so the 2 processes cannot meet; start with torchrun"):
        join(Launch(0, 2, 0, 2), "cpu").__enter__()
