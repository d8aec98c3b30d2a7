"""The main job on the embedded model: train in hard, fuzzy and soft mode, evaluate base and each in all six settings.

Models this small gain nothing from several threads, so the four chains of work (base; three modes, each trained and
then evaluated) are dealt to processes, one per core.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import queue
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from softtokens import live, tables
from softtokens.config import EvaluateConfig, QuickstartConfig, TaskConfig, ThoughtConfig, TrainConfig
from softtokens.evaluate.passk import paired_difference
from softtokens.types import UserError

MODES = ("hard", "fuzzy", "soft")
MAX_THOUGHT_STEPS = 64
MAX_ANSWER_TOKENS = 8

# What each mode is trained with on the toy, found by experiment (docs/LOG.md). The paper's own settings are the
# defaults of `softtokens train`; here the model is a thousand times smaller and the run a hundred times shorter. Soft
# needs its thought term, which is 50 times the answer term in norm, scaled down.
RECIPES: dict[str, dict[str, Any]] = {
    "hard": {"learning_rate": 1e-4, "steps": 60},
    "fuzzy": {"learning_rate": 1e-4, "steps": 60},
    "soft": {"learning_rate": 3e-4, "steps": 120, "thought_weight": 0.01},
}


def quickstart(config: QuickstartConfig) -> dict[str, Any]:
    """Run everything, print the tables, write results.json; returns its content."""
    output = _new_output(config.output)
    started = time.perf_counter()
    workers = max(1, min(len(MODES) + 1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2))
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    jobs = [(name, output, config) for name in ("soft", "hard", "fuzzy", "base")]  # the longest first
    with context.Pool(workers, _start_worker, (messages,)) as pool, live.quickstart(_totals(config)) as listener:
        pending = [pool.apply_async(_job, job) for job in jobs]
        while not all(job.ready() for job in pending):
            for job in pending:
                if job.ready():
                    job.get()  # a failed job ends the rest at once
            _forward(messages, listener)
        _forward(messages, listener)
        models = dict(sorted((job.get() for job in pending), key=lambda item: ("base", *MODES).index(item[0])))
    results = {
        "config": dataclasses.asdict(config),
        "models": models,
        "differences": differences(models),
        "seconds": time.perf_counter() - started,
    }
    (output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    report(results, output)
    return results


def report(results: dict[str, Any], output: Path) -> None:
    """Print the tables and what they say."""
    models, show = results["models"], live.console.print
    show(tables.settings_table(models, "arithmetic: share of problems solved, percent (rows: trained in that mode)"))
    show(tables.choices_table(models, "out of domain: facts that training never touched"))
    for mode in MODES:
        for setting, d in results["differences"][mode].items():
            low, high = (100 * x for x in d["interval"])
            verdict = "more than base" if low > 0 else "less than base" if high < 0 else "no clear difference from base"
            change = f"{100 * d['mean']:+.1f} points [{low:+.1f}, {high:+.1f}]"
            show(f"{mode} training, {setting} @1: {change}, {verdict}", highlight=False, markup=False)
    timing = ", ".join(f"{name} {model['seconds']:.0f} s" for name, model in models.items())
    show(f"[dim]{results['seconds']:.0f} s in all ({timing}); one seed: intervals are over problems, not over runs[/]")
    show(f"run directory: [bold]{output}[/]")


def differences(models: dict[str, Any]) -> dict[str, Any]:
    """Trained minus base in pass@1 on the same problems: sampled hard, and sampled in the mode of the training."""

    def solved(name: str, setting: str) -> np.ndarray:
        result = models[name]["settings"][setting]
        return np.array(result["right"]) / result["samples"]

    return {
        mode: {
            setting: paired_difference(solved(mode, setting), solved("base", setting))
            for setting in dict.fromkeys(("hard-sample", f"{mode}-sample"))
        }
        for mode in MODES
    }


def train_config(mode: str, output: Path, config: QuickstartConfig) -> TrainConfig:
    """The configuration that one mode is trained with."""
    recipe = RECIPES[mode] | ({} if config.steps is None else {"steps": config.steps})
    return TrainConfig(
        output=str(output / mode),
        thought=ThoughtConfig(mode=mode),
        task=TaskConfig(name="arithmetic", limit=4000),
        seed=config.seed,
        problems_per_step=8,
        group_size=16,
        max_thought_steps=MAX_THOUGHT_STEPS,
        max_answer_tokens=MAX_ANSWER_TOKENS,
        warmup_steps=5,
        validate_every=20,
        save_every=20,
        device="cpu",
        rows_per_backward=16,
        **recipe,
    )


def evaluate_config(model: str, output: Path, config: QuickstartConfig) -> EvaluateConfig:
    return EvaluateConfig(
        model=model,
        task=TaskConfig(name="arithmetic", limit=config.problems),
        samples=config.samples,
        max_thought_steps=MAX_THOUGHT_STEPS,
        max_answer_tokens=MAX_ANSWER_TOKENS,
        choices="facts",
        seed=config.seed + 1,
        output=str(output),
        device="cpu",
    )


_messages: Any = None  # of a worker process: where it reports


def _start_worker(messages) -> None:
    global _messages
    _messages = messages
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    import torch

    torch.set_num_threads(1)


def _job(name: str, output: Path, config: QuickstartConfig) -> tuple[str, dict[str, Any]]:
    """Train (unless it is the base) and evaluate one model."""
    from softtokens.evaluate.run import evaluate
    from softtokens.train.loop import train

    started = time.perf_counter()
    model = "tiny"
    if name != "base":
        train(train_config(name, output, config), listener=lambda done, metrics: _report(name, "train", done, metrics))
        model = str(output / name)  # its best checkpoint by validation, as in the paper
    trained = time.perf_counter()
    done_before: dict[str, int] = {}

    def count(setting: str, done: int, total: int) -> None:
        del total
        done_before[setting] = done
        _report(name, "evaluate", sum(done_before.values()), {})

    results = evaluate(evaluate_config(model, output / name / "evaluation", config), listener=count)
    seconds = {"train": trained - started, "evaluate": time.perf_counter() - trained}
    return name, results | {"seconds": sum(seconds.values()), "seconds_by_phase": seconds}


def _report(name: str, phase: str, done: int, metrics: dict[str, float]) -> None:
    _messages.put((name, phase, done, metrics))


def _forward(messages, listener) -> None:
    """Hand on what has arrived; waits a moment when nothing has."""
    try:
        listener(*messages.get(timeout=0.1))
        while True:
            listener(*messages.get_nowait())
    except queue.Empty:
        return


def _totals(config: QuickstartConfig) -> dict[tuple[str, str], int]:
    """How much there is to do, for the progress display: (name, phase) -> units."""
    samples = config.problems * 3 * (1 + config.samples)
    totals = {("base", "evaluate"): samples}
    for mode in MODES:
        totals |= {(mode, "train"): config.steps or RECIPES[mode]["steps"], (mode, "evaluate"): samples}
    return totals


def _new_output(name: str) -> Path:
    output = Path(name)
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"output is {name!r}, which already holds something; give a new folder with --output")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output is {name!r}, which cannot be made: {error.strerror}") from error
    return output
