"""Rewrite a report whenever the files it is made of change."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

_READ = (".json", ".jsonl")
_NOT_READ = {"checkpoints", "tensorboard"}
EVERY_SECONDS = 2.0


def watch(paths: Sequence[str], write: Callable[[], None], *, every: float = EVERY_SECONDS) -> None:
    """Call `write` now and after every change, until interrupted."""
    last = None
    while True:
        started = time.perf_counter()
        now = fingerprint(paths)
        if now != last:
            write()
            last = now
        time.sleep(max(every, time.perf_counter() - started))  # takes at most half a core from the run


def fingerprint(paths: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Size and time of every file that a report may read."""
    states = {}
    for top in paths:
        for folder, below, files in os.walk(top):
            below[:] = [name for name in below if name not in _NOT_READ]
            for name in files:
                if name.endswith(_READ):
                    path = os.path.join(folder, name)
                    try:
                        state = os.stat(path)
                    except FileNotFoundError:
                        continue  # being replaced right now
                    states[path] = (state.st_size, state.st_mtime_ns)
    return states
