"""How fast and how small: all ideas in one run, as a table, a JSON file and a plot.

    python -m benchmarks.engine [--quick | --dry-run] [--only rollout step ...] [--output benchmarks/results]

Run it from the root of the repository. What is measured against what, and the figures: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

# Spinning threads that lose their core make everybody slower when the machine is busy; set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
RESULTS = Path(__file__).resolve().parent.parent / "results"


def main(arguments: list[str] | None = None) -> Path:
    """Returns the JSON file."""
    from benchmarks.engine import growth, memory, rollouts, show, steps, streamed
    from benchmarks.engine.subject import SIZES

    ideas = {"rollout": rollouts, "step": steps, "streamed": streamed, "memory": memory, "growth": growth}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__.split("\n")[0])
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="fewer rounds, a smaller memory test")
    how.add_argument("--dry-run", action="store_true", help="tiny sizes: tries everything out, figures mean nothing")
    parser.add_argument("--only", nargs="+", choices=ideas, default=list(ideas), help="some of the ideas")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for engine.json and engine.png")
    options = parser.parse_args(arguments)
    size = "quick" if options.quick else "dry" if options.dry_run else "full"

    import torch

    # as in training: thoughts at tau 1e-4 leave softmax tails of denormal numbers
    torch.set_flush_denormal(True)
    started = time.perf_counter()
    report: dict[str, Any] = {"machine": machine(), "size": size}
    file = options.output / "engine.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    options.output.mkdir(parents=True, exist_ok=True)
    for idea in options.only:
        fresh_rows = []
        for row in ideas[idea].rows(SIZES[size]):
            seconds = time.perf_counter() - started
            line = f"{idea}: {row.what}, {row.clock}: {row.ratio:.3g} compared with {row.compared_with}"
            print(f"{seconds:4.0f} s  {line}", file=sys.stderr, flush=True)
            fresh_rows.append(row.plain())
        # ideas that are not measured now keep their rows of an earlier run
        rows = [row for row in rows if row["idea"] != idea] + fresh_rows
        report |= {"seconds": round(time.perf_counter() - started), "rows": rows}
        file.write_text(json.dumps(report, indent=1) + "\n")
    show.table(report)
    show.plot(report, options.output / "engine.png")
    return file


def machine() -> dict:
    import torch
    import transformers

    cpu = torch.backends.cpu.get_cpu_capability()
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return versions | {"cores": os.cpu_count(), "cpu": f"{platform.machine()}, {cpu}"}


if __name__ == "__main__":
    main()
