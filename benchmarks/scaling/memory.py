"""Memory that `softtokens plan` predicts beside the peak of the run's largest process."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.engine.fresh import MEGABYTE
from benchmarks.engine.measure import Row, busyness
from benchmarks.scaling.runs import FLAGS, planned, random_model, trained

OFF_BY_AT_MOST = 0.15
PROMPT_TOKENS = 24  # about what problems of the arithmetic task take
STEPS = ["--steps", "3", "--save-every", "1"]  # the third has seen rollouts, updates and a checkpoint of the others


@dataclasses.dataclass(frozen=True)
class Case:
    what: str
    model: dict
    flags: str
    processes: int = 1


BODY = {"dim": 768, "layers": 6, "vocabulary": 8_000}
HEAD = {"dim": 256, "layers": 4, "vocabulary": 128_000, "tied": False}
LONG = {"dim": 512, "layers": 4, "vocabulary": 32_000}
CASES = [
    Case("46 M, hard, 128 thoughts", BODY, "--mode hard --max-thought-steps 128"),
    Case("46 M, soft, bfloat16", BODY, "--dtype bfloat16 --max-thought-steps 32 --tokens-per-backward 4096"),
    Case("46 M, soft, adapters", BODY, "--lora-rank 8 --max-thought-steps 128"),
    Case("68 M, V = 128,000, soft", HEAD, "--max-thought-steps 32"),
    Case("68 M, V = 128,000, fuzzy", HEAD, "--mode fuzzy --max-thought-steps 32"),
    Case("28 M, soft, 512 thoughts", LONG, "--max-thought-steps 512 --group-size 16 --tokens-per-backward 8192"),
    Case(
        "the same, activations recomputed",
        LONG,
        "--max-thought-steps 512 --group-size 16 --tokens-per-backward 8192 --activation-checkpointing",
    ),
    Case("46 M, soft, ddp, 2 processes", BODY, "--max-thought-steps 128", 2),
    Case("46 M, soft, fsdp, 2 processes", BODY, "--max-thought-steps 128 --parallel fsdp", 2),
]
DRY = [Case("tiny", {"dim": 64, "layers": 1, "vocabulary": 512}, "--max-thought-steps 8 --group-size 2", 1)]


def rows(folder: Path, *, dry: bool) -> Iterator[Row]:
    for number, case in enumerate(DRY if dry else CASES):
        flags = [
            "--model",
            random_model(folder, **case.model),
            *FLAGS,
            "--group-size",
            "8",
            "--max-answer-tokens",
            "16",
        ]
        flags += [*STEPS, *case.flags.split()]
        prompt = ["--prompt-tokens", str(PROMPT_TOKENS)]
        plan = planned([*flags, *prompt], processes=case.processes)
        output = folder / f"run-{number}"
        with busyness() as busy:
            measured = trained(flags, output, processes=case.processes)[-1]["memory/peak"]
        shutil.rmtree(output)
        yield Row(
            idea="memory",
            what=f"{case.what} (peak in {plan['peak_phase']})",
            clock="peak memory",
            ours=f"plan {plan['peak'] / MEGABYTE:,.0f} MB",
            beside="measured",
            theirs=f"{measured / MEGABYTE:,.0f} MB",
            ratio=abs(plan["peak"] / measured - 1),
            samples={"plan": [plan["peak"]], "measured": [measured]},
            busy=busy[0],
            at_most=OFF_BY_AT_MOST,
        )
