"""The plan's memory compared with real runs, and the speed-up of a second process, as a table and a JSON file.

    python -m benchmarks.scaling [--dry-run] [--only memory speed] [--output benchmarks/results]

Run it from the root of the repository; every run is a process (or two) of its own. Figures: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.engine import show
from benchmarks.engine.__main__ import RESULTS, machine
from benchmarks.scaling import memory, speed

IDEAS = {"memory": memory, "speed": speed}


def main(arguments: list[str] | None = None) -> Path:
    """Returns the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.split("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes: tries everything out, figures mean nothing")
    parser.add_argument("--only", nargs="+", choices=IDEAS, default=list(IDEAS), help="some of the ideas")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for scaling.json")
    options = parser.parse_args(arguments)

    started, fresh_rows = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for idea in options.only:
            for row in IDEAS[idea].rows(Path(folder), dry=options.dry_run):
                seconds = time.perf_counter() - started
                line = f"{idea}: {row.what}: {row.ours}, {row.compared_with} {row.theirs}"
                print(f"{seconds:4.0f} s  {line}", file=sys.stderr, flush=True)
                fresh_rows.append(row.plain())
    file = options.output / "scaling.json"
    earlier = json.loads(file.read_text())["rows"] if file.exists() else []
    kept = [row for row in earlier if row["idea"] not in options.only]  # not measured now
    report = {"machine": machine(), "seconds": round(time.perf_counter() - started), "rows": kept + fresh_rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=1) + "\n")
    show.table(report)
    return file


if __name__ == "__main__":
    main()
