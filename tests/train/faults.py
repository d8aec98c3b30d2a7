"""Kill a training run again and again: python faults.py KILLS SEED train --output ...

Every attempt is a forked process that is killed (SIGKILL) within a few milliseconds of entering a phase chosen at
random; the next one resumes. Prints how many kills each phase got, as JSON.
"""

from __future__ import annotations

import collections
import functools
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable

import torch

from softtokens import cli
from softtokens.train import checkpoint, collect, loop, run_folder, step, tracking
from train.driver import reward_texts

PHASES = {
    "rollout": (collect, "sample_problems"),
    "grading": (collect, "leave_one_out"),
    "replay": (step, "accumulate_gradient"),
    "optimizer step": (torch.optim.AdamW, "step"),
    "validation": (loop, "validate"),
    "logging": (tracking.JsonLines, "write"),
    "measuring the logs": (tracking.JsonLines, "position"),
    "saving: the folder": (checkpoint, "_start"),
    "saving: the optimizer": (checkpoint, "_save_optimizer"),
    "saving: weights and record": (checkpoint, "_finish"),
    "saving: flushing": (checkpoint, "flush_to_disk"),
    "saving: links": (checkpoint, "_point"),
    "saving: dropping old ones": (shutil, "rmtree"),
    "starting": (run_folder, "open_run"),
    "resuming": (loop, "tidy"),
}


def kill_in(phase: str, call: int, delay_s: float) -> None:
    """This process ends soon after the call of that number enters the phase."""
    owner, name = PHASES[phase]
    inner, calls = getattr(owner, name), []

    def entered(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            threading.Thread(target=_kill_after, args=(delay_s,), daemon=True).start()
        return inner(*arguments, **options)

    setattr(owner, name, entered)


def _kill_after(delay_s: float) -> None:
    time.sleep(delay_s)
    os.kill(os.getpid(), signal.SIGKILL)


def attempt(flags: list[str], prepare: Callable[[], None]) -> int:
    """Run the command line in a forked process; the signal that ended it, 0 if it ended by itself."""
    child = os.fork()
    if child == 0:
        prepare()
        os._exit(cli.main([*flags, "--resume"]))
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    assert os.WEXITSTATUS(status) == 0, os.WEXITSTATUS(status)
    return 0


def main(kills: int, seed: int, flags: list[str]) -> dict[str, int]:
    chance = random.Random(seed)
    kills_of: collections.Counter[str] = collections.Counter()
    while sum(kills_of.values()) < kills:
        phase = min(PHASES, key=lambda p: (kills_of[p], chance.random()))
        most = 1 if phase in ("starting", "resuming") else 6
        call, delay_s = chance.randint(1, most), chance.choice((0.0, 0.0005, 0.002, 0.01))
        ended_by = attempt(flags, functools.partial(kill_in, phase, call, delay_s))
        if ended_by == 0:
            break  # the run is complete; it was too short for so many kills
        assert ended_by == signal.SIGKILL, ended_by
        kills_of[phase] += 1
    assert attempt(flags, lambda: None) == 0
    return {phase: kills_of[phase] for phase in PHASES}


if __name__ == "__main__":
    torch.set_num_threads(1)
    reward_texts(setattr)
    kills = main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    print(json.dumps(kills))
