"""Made-up folders of training and evaluation: seeded, small, with a known answer in them."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from softtokens.config.commands import ReportConfig
from softtokens.config.thought import FAMILIES, PAPER_SETTINGS, SETTINGS
from softtokens.evaluate.intervals import estimate
from softtokens.evaluate.passk import ks_up_to, pass_at_k
from softtokens.report.build import report

PROBLEMS, SAMPLES = 24, 8
SKILL = {"base": 0.3, "hard": 0.6, "fuzzy": 0.35, "soft": 0.45}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def train_row(step: int, steps: int, draw: random.Random, **changes) -> dict:
    right = 0.3 + 0.4 * step / steps + 0.05 * draw.random()
    row = {
        "step": step,
        "reward": 10 + 90 * right,
        "reward_std": 30.0,
        "frac_reward_zero_std": 0.1,
        "entropy": 0.6 - 0.2 * step / steps,
    }
    row |= {"verdict/right": right, "verdict/wrong": 1 - right, "verdict/no_answer": 0.0, "verdict/grader_error": 0.0}
    row |= {"stop/phrase": 0.9, "stop/limit": 0.1, "stop/eos": 0.0, "completions/thought_length": 20.0 + draw.random()}
    row |= {
        "completions/answer_length": 4.0,
        "num_tokens": 3000.0,
        "thought/max_weight": 0.9,
        "verdict/grader_timeout": 0.0,
    }
    row |= {"thought/near_tie_share": 0.3, "thought/effective_support": 1.2, "mismatch/answer_log_prob": 1e-7}
    row |= {"grad_norm": 200 + 50 * draw.random(), "learning_rate": 1e-4, "time/rollout": 0.5, "time/grade": 0.01}
    row |= {"time/update": 1.0, "time/step": 1.51, "tokens_per_second": 6000.0}
    if step % 5 == 0:
        row |= {"grad_norm/thought": 180.0, "grad_norm/answer": 60.0, "validation/accuracy": right}
    return row | changes


def write_run(
    folder: Path,
    mode: str = "soft",
    *,
    seed: int = 0,
    steps: int = 10,
    samples: list[dict] | None = None,
    changes=None,
    **config,
) -> Path:
    """A training run. `changes` replaces values in every line of the metrics."""
    draw = random.Random(repr((mode, seed)))
    thought = {"mode": mode, "tau": None, "gamma": 0.33, "noise": "input"}
    resolved = {
        "output": str(folder),
        "model": "tiny",
        "thought": thought,
        "task": {"name": "arithmetic", "seed": 0},
        "seed": seed,
    }
    resolved |= {"steps": steps, "problems_per_step": 2, "group_size": 8, "learning_rate": 1e-4, "thought_weight": 1.0}
    write(folder / "config.json", resolved | config)
    write_lines(folder / "metrics.jsonl", [train_row(i + 1, steps, draw, **(changes or {})) for i in range(steps)])
    write_lines(folder / "samples.jsonl", samples or [train_sample(i + 1) for i in range(steps)])
    return folder


def train_sample(step: int) -> dict:
    texts = {"thoughts": " 3+4=7. The final answer is:", "answer": " \\boxed{7}"}
    return {
        "step": step,
        "problem": 5,
        "prompt": "User: Tom has 3.\nAssistant:",
        **texts,
        "expected": "7",
        "stop": "phrase",
        "reward": 100.0,
        "verdict": "right",
    }


def share(value: float, low: float | None = None, high: float | None = None) -> dict:
    return {"value": value, "low": value if low is None else low, "high": value if high is None else high}


def knobs(cell: str) -> dict:
    """Temperature and noise of a cell: the paper's, unless its name says otherwise."""
    setting, *changes = cell.split("_")
    mode = SETTINGS[setting].thought.mode
    result = {"temperature": FAMILIES[mode].temperature, "gamma": None if mode == "hard" else 0.33}
    for change in changes:
        name, value = change.split("=")
        result["gamma" if name == "gamma" else "temperature"] = float(value)
    return result


def summary(model: str, cell: str, right: list[int], samples: int, task: str = "arithmetic") -> dict:
    """The summary of a cell, from the counts of right samples."""
    at = {}
    for k in ks_up_to(samples):
        solved = pass_at_k(right, samples, k)
        at[str(k)] = estimate(solved, shares=True)
    rate = sum(right) / samples / len(right)
    rest: dict[str, object] = {
        "verdicts": {"right": rate, "wrong": 1 - rate},
        "stops": {"phrase": 1.0, "limit": 0.0, "eos": 0.0},
    }
    rest |= {"thought_length": {"mean": 20.0, "median": 19.0, "p95": 30.0}, "answer_length": {"mean": 4.0}}
    rest |= {
        "tokens": 5000,
        "seconds": 2.0,
        "tokens_per_second": 2500.0,
        "right": right,
        "problem_ids": list(range(len(right))),
    }
    setting = cell.split("_")[0]
    named = {
        "schema": 1,
        "model": model,
        "task": task,
        "cell": cell,
        "setting": setting,
        **knobs(cell),
    }
    return (
        named
        | {"problems": len(right), "samples": samples, "seed": 0, "pass@k": at, "maj@k": at, "mean@n": at["1"]}
        | rest
    )


def profile(mode: str, steps: int = 12) -> dict:
    entropy = [0.8 * math.exp(-i / 10) * (0.4 if mode == "hard" else 1) for i in range(steps)]
    spread = {"entropy_low": [e * 0.7 for e in entropy], "entropy_high": [e * 1.4 for e in entropy]}
    flat = {"effective_support": [1.3] * steps, "max_weight": [0.9] * steps, "share_above_0.99": [0.6] * steps}
    flat |= {"distance_to_token": [0.2] * steps, "noise_ratio": [0.33] * steps}
    return {
        "schema": 1,
        "temperature": 0.5,
        "entropy_temperature": 1.0,
        "steps": list(range(steps)),
        "running": [32] * steps,
        "entropy": entropy,
        **spread,
        **flat,
        "generations": 32,
    }


def trace(
    model: str, cell: str, problem: int = 3, *, tokens=("3", "+", "4", "=", "7"), verdict: str = "right", **changes
) -> dict:
    n = len(tokens)
    columns = {"shadow": list(tokens), "top": [[[t, 0.9], ["x", 0.06], [" y", 0.03]] for t in tokens]}
    columns |= {
        "entropy": [0.1 * i for i in range(n)],
        "effective_support": [1.2] * n,
        "max_weight": [0.9] * n,
        "noise": [0.33] * n,
    }
    texts = {
        "prompt": "User: Tom has 3.\nAssistant:",
        "expected": "7",
        "answer": " \\boxed{7}",
        "verdict": verdict,
        "stop": "phrase",
    }
    return {
        "model": model,
        "task": "arithmetic",
        "cell": cell,
        "problem": problem,
        "sample": 0,
        **texts,
        "step_columns": columns,
    } | changes


def write_evaluation(
    folder: Path,
    models=("base", "hard", "fuzzy", "soft"),
    *,
    cells=PAPER_SETTINGS,
    task: str = "arithmetic",
    runs: Path | None = None,
    rest: bool = True,
) -> Path:
    """An evaluation folder. `runs`: where the runs of the trained models are; `rest`: profiles, traces and so on."""
    entries = []
    for model in models:
        mode = model.split("-")[0]
        trained = {
            "mode": mode,
            "base": "tiny",
            "task": "arithmetic",
            "seed": 0,
            "steps": 10,
            "run": str(runs / model) if runs else None,
        }
        entries.append(
            {
                "name": model,
                "path": str(runs / model) if runs else "tiny",
                "trained": None if mode == "base" else trained,
            }
        )
        for cell in cells:
            samples = 1 if "greedy" in cell else SAMPLES
            draw = random.Random(f"{cell}")  # common random numbers: models differ only in skill
            chance = [draw.random() ** 0.7 for _ in range(PROBLEMS)]
            right = [sum(draw.random() < SKILL[mode] + 0.5 * (c - 0.5) for _ in range(samples)) for c in chance]
            write(folder / "cells" / model / task / cell / "summary.json", summary(model, cell, right, samples, task))
            if rest:
                write(folder / "cells" / model / task / cell / "profile.json", profile(mode))
                write_lines(folder / "traces" / model / task / f"{cell}.jsonl", [trace(model, cell)])
        if rest:
            facts = {
                "schema": 1,
                "model": model,
                "name": "facts",
                "source": "local",
                "items": 50,
                "accuracy": share(0.8, 0.7, 0.9),
            }
            facts |= {"accuracy_normalized": share(0.8, 0.7, 0.9), "nll_per_token": share(0.2, 0.18, 0.22)}
            write(folder / "choices" / model / "facts.json", facts)
            if mode != "base":
                kept = {
                    "schema": 1,
                    "base": "tiny",
                    "model": model,
                    "texts": 10,
                    "tokens": 900,
                    "kl_per_token": share(0.01, 0.008, 0.012),
                }
                write(
                    folder / "preservation" / f"{model}.json",
                    kept | {"top1_agreement": share(0.97), "nll_difference": share(0.003, -0.001, 0.007)},
                )
    listed = [{"name": task, "source": task, "split": "test", "problems": PROBLEMS}]
    write(
        folder / "evaluation.json",
        {"schema": 1, "config": {}, "models": entries, "tasks": listed, "settings": list(cells)},
    )
    return folder


@pytest.fixture
def quickstart_folder(tmp_path) -> Path:
    """Three runs, and an evaluation of them and the base."""
    folder = tmp_path / "quickstart"
    for mode in ("hard", "fuzzy", "soft"):
        write_run(folder / mode, mode)
    write_evaluation(folder / "evaluation", runs=folder)
    return folder


@pytest.fixture
def page(tmp_path):
    """Make the report of some folders and return its text."""

    def page(*folders: Path, **options) -> str:
        output = tmp_path / "page.html"
        report(ReportConfig(runs=tuple(map(str, folders)), output=str(output), **options))
        return output.read_text()

    return page
