"""Steps of one process and of two: which of two cores' worth of work a second process takes over."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.engine.measure import Row, busyness
from benchmarks.scaling.runs import FLAGS, random_model, trained

ONE = "1 process, 1 thread"
# name -> (processes, threads of each, flags)
WAYS = {
    ONE: (1, 1, []),
    "1 process, 2 threads": (1, 2, []),
    "2 processes, ddp": (2, 1, ["--parallel", "ddp"]),
    "2 processes, fsdp": (2, 1, ["--parallel", "fsdp"]),
}
MODELS: dict[str, dict[str, Any]] = {
    "V = 512": {"dim": 256, "layers": 4, "vocabulary": 512},
    "V = 32,000": {"dim": 256, "layers": 4, "vocabulary": 32_000},
}
DRY: dict[str, dict[str, Any]] = {"tiny": {"dim": 64, "layers": 1, "vocabulary": 512}}
SKIPPED = 1  # the first step warms up


def rows(folder: Path, *, dry: bool) -> Iterator[Row]:
    rounds, steps, group, thoughts = (1, 2, 2, 4) if dry else (2, 3, 32, 48)
    for name, model in (DRY if dry else MODELS).items():
        flags = ["--model", random_model(folder, **model), *FLAGS, "--steps", str(steps), "--group-size", str(group)]
        flags += ["--max-thought-steps", str(thoughts), "--max-answer-tokens", "4", "--term-norms-every", "0"]
        flags += ["--save-every", str(steps)]
        seconds_of_steps: dict[str, list[dict]] = {way: [] for way in WAYS}
        with busyness() as busy:
            for _ in range(rounds):
                for way, (processes, threads, more) in WAYS.items():
                    output = folder / "run"
                    trained_steps = trained([*flags, *more], output, processes=processes, threads=threads)
                    seconds_of_steps[way] += trained_steps[SKIPPED:]
                    shutil.rmtree(output)
        for way in list(WAYS)[1:]:
            yield _row(f"soft, {name}, {way}", seconds_of_steps[way], seconds_of_steps[ONE], busy[0])


def _row(what: str, ours: list[dict], theirs: list[dict], busy: float) -> Row:
    samples = {who: [step["time/step"] for step in steps] for who, steps in (("ours", ours), (ONE, theirs))}
    return Row(
        idea="speed",
        what=what,
        clock="wall",
        ours=_shown(ours),
        compared_with=ONE,
        theirs=_shown(theirs),
        ratio=statistics.median(samples[ONE]) / statistics.median(samples["ours"]),
        samples=samples,
        busy=busy,
    )


def _shown(steps: list[dict]) -> str:
    """Tokens of whole steps, not of rollouts alone."""
    seconds = statistics.median(step["time/step"] for step in steps)
    tokens = statistics.median(step["num_tokens"] / step["time/step"] for step in steps)
    return f"{seconds:.2f} s, {tokens:,.0f} tokens/s"
