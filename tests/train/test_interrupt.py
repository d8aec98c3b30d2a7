"""SIGTERM and Ctrl-C: nothing is lost, and the exit code asks a scheduler to start the run again."""

import os
import signal

import pytest

from softtokens import cli
from softtokens.train.checkpoint import newest_checkpoint
from softtokens.train.interrupt import StopRequest
from train.test_resume import assert_same_run, lines

ASKED_DURING = {
    "rollout": """
from softtokens.train import collect
sample, calls = collect.sample_problems, []
def asked(*arguments, **options):
    calls.append(1)
    if len(calls) == 6:
        os.kill(os.getpid(), NUMBER)
    return sample(*arguments, **options)
collect.sample_problems = asked
""",
    "update": """
import torch
update, calls = torch.optim.AdamW.step, []
def asked(optimizer, *arguments):
    calls.append(1)
    if len(calls) == 6:
        os.kill(os.getpid(), NUMBER)
    return update(optimizer, *arguments)
torch.optim.AdamW.step = asked
""",
}


@pytest.mark.parametrize(
    ("number", "during"),
    [pytest.param(signal.SIGTERM, "rollout", marks=pytest.mark.slow), (signal.SIGINT, "update")],
)
def test_a_signal_saves_and_asks_to_be_started_again(flags, tmp_path, start, text_rewards, number, during):
    run = tmp_path / "run"
    hook = ASKED_DURING[during].replace("NUMBER", str(int(number)))
    process = start(flags(run, "--save-every", "50", "--validate-every", "0"), "import os\n" + hook)
    _, error = process.communicate(timeout=120)
    assert process.returncode == cli.EXIT_REQUEUE == 75
    done = {"rollout": 5, "update": 6}[during]  # a step that has changed nothing yet is dropped, else finished
    assert error.strip().splitlines() == [
        f"softtokens: stopped by {number.name} after {done} of 8 steps; all of them are saved. To continue, run the "
        "same command with --resume."
    ]
    _, progress = newest_checkpoint(run)
    assert progress.step == done == len(lines(run / "metrics.jsonl"))
    settings = ("--save-every", "50", "--validate-every", "0")
    assert cli.main(flags(run, "--resume", *settings)) == 0
    whole = tmp_path / "whole"
    assert cli.main(flags(whole, *settings)) == 0
    assert_same_run(run, whole, links=("last",), kept=False)


@pytest.fixture
def interruptible():
    """A process that a shell starts in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_signal_does_not_wait(interruptible):
    with StopRequest().listening() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked == "SIGINT"
        signal.signal(signal.SIGINT, lambda *_: None)  # a second signal must not end this process
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_only_what_may_be_dropped_is():
    def asked_for(kept: bool) -> str:
        if kept:
            stop.keep()
        os.kill(os.getpid(), signal.SIGTERM)
        return "finished"

    for droppable, kept, result in ((True, False, None), (True, True, "finished"), (False, False, "finished")):
        with StopRequest().listening() as stop:
            assert stop.attempt(lambda kept=kept: asked_for(kept), droppable=droppable) == result
            assert stop.asked == "SIGTERM"
            assert stop.attempt(lambda: "begun", droppable=True) is None
