"""Peak memory of a piece of work, in a process of its own.

python -m benchmarks.engine.fresh benchmarks.engine.streamed:prepare '["ours", ...]'
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEGABYTE = 1e6


def peak_memory(prepare: str, arguments: list, *, fresh: bool = True) -> dict[str, float]:
    """`prepare` names a function, module:name, that takes the arguments and returns the work as a callable.

    Returns bytes: `peak`, the largest resident size of the whole process; `before`, its size when the work started,
    so peak - before is what the work took; and `seconds`. fresh=False stays in this process, where the peak means
    little.
    """
    if not fresh:
        return _measured(prepare, arguments)
    command = [sys.executable, "-m", "benchmarks.engine.fresh", prepare, json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measured(prepare: str, arguments: list) -> dict[str, float]:
    import torch

    torch.set_flush_denormal(True)
    module, name = prepare.split(":")
    work = getattr(importlib.import_module(module), name)(*arguments)
    before = _resident()
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    # kilobytes on Linux, bytes on macOS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"peak": peak, "before": before, "seconds": seconds}


def _resident() -> int:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    print(json.dumps(_measured(sys.argv[1], json.loads(sys.argv[2]))))
