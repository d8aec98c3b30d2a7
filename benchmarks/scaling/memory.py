"""Memory that `softtokens plan` predicts, compared with the peak of the run's largest process."""

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
# The third step has seen rollouts, updates and checkpoints of the others, and each has everything that a step can have.
STEPS = ["--steps", "3", "--save-every", "1", "--term-norms-every", "1"]


@dataclasses.dataclass(frozen=True)
class Case:
    what: str
    model: dict
    flags: str
    processes: int = 1


BODY = {"dim": 768, "layers": 6, "vocabulary": 8_000}
HEAD = {"dim": 256, "layers": 4, "vocabulary": 128_000, "tied": False}
LONG = {"dim": 512, "layers": 4, "vocabulary": 32_000}
LONG_FLAGS = "--group-size 8 --max-thought-steps 256 --tokens-per-backward 4096"
SHORT = "--group-size 8 --max-thought-steps 48 --tokens-per-backward 512"
CASES = [
    Case("46 M, hard", BODY, f"--mode hard {SHORT}"),
    Case("46 M, soft", BODY, SHORT),
    Case("46 M, soft, bfloat16", BODY, "--dtype bfloat16 --group-size 2 --max-thought-steps 8"),
    Case("46 M, soft, adapters", BODY, f"--lora-rank 8 {SHORT}"),
    Case("68 M, V = 128,000, soft", HEAD, "--group-size 8 --max-thought-steps 32"),
    Case("68 M, V = 128,000, fuzzy", HEAD, "--mode fuzzy --group-size 8 --max-thought-steps 32"),
    Case("28 M, soft, 256 thoughts", LONG, LONG_FLAGS),
    Case("the same, activations recomputed", LONG, f"{LONG_FLAGS} --activation-checkpointing always"),
    Case("46 M, soft, ddp, 2 processes", BODY, SHORT, 2),
    Case("46 M, soft, fsdp, 2 processes", BODY, f"{SHORT} --parallel fsdp", 2),
]
DRY = [Case("tiny", {"dim": 64, "layers": 1, "vocabulary": 512}, "--max-thought-steps 8 --group-size 2", 1)]


def rows(folder: Path, *, dry: bool) -> Iterator[Row]:
    for number, case in enumerate(DRY if dry else CASES):
        flags = ["--model", random_model(folder, **case.model), *FLAGS, "--max-answer-tokens", "16"]
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
            compared_with="measured",
            theirs=f"{measured / MEGABYTE:,.0f} MB",
            ratio=abs(plan["peak"] / measured - 1),
            samples={"plan": [plan["peak"]], "measured": [measured]},
            busy=busy[0],
            at_most=OFF_BY_AT_MOST,
        )
