"""Peak memory of a piece of work, in a process of its own.

python -m benchmarks.engine.fresh benchmarks.engine.streamed:prepare '["ours", ...]'
"""

from __future__ import annotations

import importlib
import json
import os
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
    module, name = prepare.split(":")
    work = getattr(importlib.import_module(module), name)(*arguments)
    before = _status("VmRSS")
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    return {"peak": _status("VmHWM"), "before": before, "seconds": seconds}


def _status(field: str) -> int:
    """Bytes. Linux' own account of this program: the peak of `getrusage` includes the process it was started from."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    print(json.dumps(_measured(sys.argv[1], json.loads(sys.argv[2]))))
