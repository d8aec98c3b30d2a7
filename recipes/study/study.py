"""The study on the embedded model: every arm (a way to train) with several seeds, each trained and then evaluated.

    python recipes/study/study.py --out runs/study                         # all arms, seeds 0 1 2: a day on one core
    python recipes/study/study.py --out runs/study --arms hard soft --seeds 0
    python recipes/study/study.py --list

Stopped at any moment, the same command continues. Two at once, with different arms, share a folder. Each finished arm
and seed becomes a small file in recipes/study/results, which table.py turns into the tables of docs/findings.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from softtokens.config.thought import PAPER_SETTINGS
from softtokens.evaluate.results import Results, read_results

HERE = Path(__file__).resolve().parent
TEST_PROBLEMS = 128
THOUGHTS, SHORT, ANSWER = 64, 16, 8  # a chain takes 26 thoughts on average

# What every arm shares: the quickstart's recipe, with the paper's loss (both terms at weight 1).
COMMON = (
    "--task arithmetic --limit 4000 --steps 40 --learning-rate 1e-4 --problems-per-step 16 --group-size 16 "
    f"--max-thought-steps {THOUGHTS} --max-answer-tokens {ANSWER} --warmup-steps 5 --validate-every 10 "
    "--validation-problems 128 --save-every 20 --device cpu"
)
SOFT = "--mode soft"
FUZZY = "--mode fuzzy --tau 0.1 --table-in-mean frozen"
LITERAL = "--mode fuzzy"  # the paper's temperature, 1e-4
ROUNDED = "--mode fuzzy --logits-dtype bfloat16"


@dataclasses.dataclass(frozen=True)
class Arm:
    """flags: of `softtokens train`, after those that all arms share (the last one wins); None: no training. The rest is
    about the evaluation."""

    question: str
    flags: str | None
    settings: tuple[str, ...] = PAPER_SETTINGS
    samples: int = 32
    thoughts: int = THOUGHTS


def own(mode: str) -> tuple[str, ...]:
    """Enough for a control: sampled in its own mode, and hard."""
    return tuple(dict.fromkeys(("hard-greedy", "hard-sample", f"{mode}-sample")))


ARMS = {
    "base": Arm("the embedded model", None),
    "base-128": Arm("more samples without training: pass@128", None, ("hard-sample", "soft-sample"), samples=128),
    "hard": Arm("the paper's hard mode", "--mode hard"),
    "soft": Arm("the paper's soft mode", SOFT),
    "fuzzy": Arm("fuzzy at tau 0.1, the table frozen in the mean", FUZZY),
    "fuzzy-table": Arm("the table trained in the mean", "--mode fuzzy --tau 0.1", own("fuzzy")),
    "fuzzy-rounded": Arm("fuzzy at the paper's 1e-4, logits rounded to bfloat16", ROUNDED, own("fuzzy")),
    "fuzzy-literal": Arm("fuzzy at the paper's 1e-4, float32", LITERAL, own("fuzzy")),
    "soft-answer-only": Arm("does the thought term teach?", f"{SOFT} --thought-weight 0", own("soft")),
    "fuzzy-answer-only": Arm("does the thought term teach?", f"{FUZZY} --thought-weight 0", own("fuzzy")),
    "soft-thought-only": Arm("does the answer term matter?", f"{SOFT} --answer-weight 0", own("soft")),
    "hard-answer-only": Arm("does the thought term teach?", "--mode hard --thought-weight 0", own("hard")),
    "soft-frozen": Arm("the table frozen in the mean", f"{SOFT} --table-in-mean frozen", own("soft")),
    "fuzzy-rounded-frozen": Arm("the table frozen in the mean", f"{ROUNDED} --table-in-mean frozen", own("fuzzy")),
    "fuzzy-mirrored": Arm("the same, with antithetic noise", f"{LITERAL} --antithetic", own("fuzzy")),
    "multiplex": Arm("the mean of three sampled tokens", "--mode multiplex", own("multiplex")),
    "moi": Arm("mixture of inputs", "--mode moi", own("moi")),
    "gumbel-2": Arm("Gumbel weights on two tokens", "--mode gumbel --top-k 2", own("gumbel")),
    "soft-mirrored": Arm("antithetic noise", f"{SOFT} --antithetic", own("soft")),
    "fuzzy-literal-spikes": Arm("spikes clipped", f"{LITERAL} --clip-spikes", own("fuzzy")),
    "soft-clip-each": Arm("each term clipped apart", f"{SOFT} --clip each", own("soft")),
    "soft-tau-1": Arm("tau 1", f"{SOFT} --tau 1", own("soft")),
    "fuzzy-tau-0.01": Arm("tau 0.01", f"{FUZZY} --tau 0.01", own("fuzzy")),
    "soft-gamma-0.1": Arm("less noise", f"{SOFT} --gamma 0.1", own("soft")),
    "soft-gamma-1": Arm("more noise", f"{SOFT} --gamma 1", own("soft")),
    "soft-32x8": Arm("smaller groups, as many rollouts", f"{SOFT} --problems-per-step 32 --group-size 8", own("soft")),
    "soft-4x64": Arm("larger groups, as many rollouts", f"{SOFT} --problems-per-step 4 --group-size 64", own("soft")),
    "base-short": Arm("thoughts end before the chain does", None, own("soft"), thoughts=SHORT),
    "soft-short": Arm("the same", f"{SOFT} --max-thought-steps {SHORT}", own("soft"), thoughts=SHORT),
    "hard-short": Arm("the same", f"--mode hard --max-thought-steps {SHORT}", own("hard"), thoughts=SHORT),
    "hard-tau-0.6": Arm("hard with a lower temperature", "--mode hard --tau 0.6", own("hard")),
    "soft-long": Arm("three times as many updates", f"{SOFT} --steps 120", own("soft")),
}


def run(name: str, seed: int, out: Path) -> None:
    """Train, evaluate, and write the result file; whatever is done already is not done again."""
    arm, name = ARMS[name], f"{name}-s{seed}"
    target = HERE / "results" / f"{name}.json"
    if target.exists():
        return
    folder, evaluation = out / name, out / "evaluation" / name
    started = time.monotonic()
    if arm.flags is not None:
        flags = [*COMMON.split(), *arm.flags.split()]
        softtokens("train", *flags, "--seed", str(seed), "--output", str(folder), "--resume")
    softtokens(
        "evaluate", "--models", f"{name}={'tiny' if arm.flags is None else folder}", "--task", "arithmetic",
        "--limit", str(TEST_PROBLEMS), "--settings", *arm.settings, "--samples", str(arm.samples),
        "--max-thought-steps", str(arm.thoughts), "--max-answer-tokens", str(ANSWER), "--choices", "facts",
        "--seed", str(seed + 1), "--device", "cpu", "--output", str(evaluation),
    )  # fmt: skip
    seconds = time.monotonic() - started
    result = summary(name, read_results(evaluation)) | {"training": training(folder), "seconds": round(seconds)}
    target.parent.mkdir(exist_ok=True)
    new = target.with_suffix(".new")
    new.write_text(json.dumps(result) + "\n")
    new.replace(target)
    print(f"{name}: {seconds:.0f} s", flush=True)


def softtokens(*arguments: str) -> None:
    """One thread: models this small gain nothing from two."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "softtokens.cli", *arguments], env=environment)
    if done.returncode:
        sys.exit(done.returncode)


def summary(name: str, results: Results) -> dict[str, Any]:
    """right: how many samples of each problem are right, by setting."""
    cells = {cell: results.summaries[name, "arithmetic", cell] for cell in results.cells}
    facts = results.choices[name, "facts"]
    return {
        "weights": results.main["models"][0]["weights"],
        "samples": {cell: summary["samples"] for cell, summary in cells.items()},
        "right": {cell: summary["right"] for cell, summary in cells.items()},
        "thought_length": {cell: round(summary["thought_length"]["mean"], 2) for cell, summary in cells.items()},
        "facts": {"accuracy": facts["accuracy"], "nll_per_token": facts["nll_per_token"]},
    }


def training(folder: Path) -> dict[str, Any]:
    """Validation accuracy in the own mode by step, and the mean reward of every step."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {
        "validation": {line["step"]: line["validation/accuracy"] for line in lines if "validation/accuracy" in line},
        "reward": [round(line["reward/mean"], 2) for line in lines if "reward/mean" in line],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="runs and evaluations, hundreds of MB")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--list", action="store_true", help="show the arms and stop")
    arguments = parser.parse_args()
    if arguments.list:
        for name, arm in ARMS.items():
            print(f"{name:22s}{arm.question:58s}{arm.flags or ''}")
        return
    for seed in arguments.seeds:
        for arm in arguments.arms:
            run(arm, seed, arguments.out)


if __name__ == "__main__":
    main()
