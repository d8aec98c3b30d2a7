"""The main job on the embedded model: train in hard, fuzzy and soft mode, evaluate base and each in all six settings.

Models this small gain nothing from several threads, so the four chains of work (base; three modes, each trained and
then evaluated) are dealt to processes, one per core.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import multiprocessing.queues
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from rich.markup import escape

from softtokens.cli import progress, tables
from softtokens.cli.progress import QuickstartListener
from softtokens.config.commands import QuickstartConfig, ReportConfig
from softtokens.config.evaluate import EvaluateConfig
from softtokens.config.task import TaskConfig
from softtokens.config.thought import ThoughtConfig
from softtokens.config.train import TrainConfig
from softtokens.evaluate.folder import order_models
from softtokens.evaluate.intervals import paired_difference
from softtokens.evaluate.results import Results, read_results
from softtokens.files import new_folder, write_json
from softtokens.report.build import report as write_report
from softtokens.types import UserError

Messages: TypeAlias = "multiprocessing.queues.Queue[tuple[str, str, int, dict[str, Any]]]"
MODES = ("hard", "fuzzy", "soft")
MAX_THOUGHT_STEPS = 64
MAX_ANSWER_TOKENS = 8
EVALUATION = "evaluation"
PROFILED, TRACED = 64, 6  # generations per cell whose thoughts are measured, and recorded step by step

# All three modes share one recipe, with the paper's loss (both terms at weight 1). The paper's own settings are the
# defaults of `softtokens train`; here the model is a thousand times smaller and the run a hundred times shorter.
STEPS = 40
# At the paper's 1e-4, float32 logits leave fuzzy thoughts no gradient. At 0.1 nearly all of the gradient that reaches
# the embedding table through the mean is noise, so the table is frozen there (docs/findings.md).
THOUGHTS = {"fuzzy": ThoughtConfig("fuzzy", tau=0.1, table_in_mean="frozen")}


def quickstart(config: QuickstartConfig) -> dict[str, Any]:
    """Run everything, print the tables, write results.json; returns its content."""
    output = new_folder(config.output)
    started = time.perf_counter()
    with progress.quickstart(_totals(config)) as listener:
        _run_jobs(("soft", "hard", "fuzzy", "base"), output, config, listener)  # the longest first
    order_models(output / EVALUATION, ("base", *MODES))
    evaluation = read_results(output / EVALUATION)
    results = {
        "config": dataclasses.asdict(config),
        "differences": differences(evaluation),
        "phases": {name: json.loads((output / name / "seconds.json").read_text()) for name in ("base", *MODES)},
        "seconds": time.perf_counter() - started,
    }
    write_json(output / "results.json", results, indent=1)
    report(results, evaluation, output)
    page = write_report(ReportConfig(runs=(str(output),)))
    progress.console.print(f"report, for a browser: [bold]{escape(str(page))}[/]")
    return results


def report(results: dict[str, Any], evaluation: Results, output: Path) -> None:
    """Print the tables and what they say."""
    show = progress.console.print
    title = "arithmetic: share of problems solved, percent (rows: trained in that mode)"
    show(tables.settings_table(evaluation, "arithmetic", title))
    show(tables.choices_table(evaluation, "facts", "out of domain: facts that training never touched"))
    for mode in MODES:
        for setting, d in results["differences"][mode].items():
            if d["low"] is None:  # a single problem
                continue
            low, high = 100 * d["low"], 100 * d["high"]
            verdict = "more than base" if low > 0 else "less than base" if high < 0 else "no clear difference from base"
            change = f"{100 * d['value']:+.1f} points [{low:+.1f}, {high:+.1f}]"
            show(f"{mode} training, {setting} @1: {change}, {verdict}", highlight=False, markup=False)
    timing = ", ".join(f"{n} {s['train']:.0f} + {s['evaluate']:.0f} s" for n, s in results["phases"].items())
    show(f"[dim]{results['seconds']:.0f} s in all (training + evaluation: {timing})[/]")
    show("[dim]One seed: the intervals are over problems, not over runs.[/]")
    show(f"run directory: [bold]{escape(str(output))}[/]")


def differences(evaluation: Results) -> dict[str, Any]:
    """Trained minus base in pass@1 on the same problems: sampled hard, and sampled in the mode of the training."""

    def solved(name: str, setting: str) -> np.ndarray:
        summary = evaluation.summaries[name, "arithmetic", setting]
        return np.array(summary["right"]) / summary["samples"]

    return {
        mode: {
            setting: paired_difference(solved(mode, setting), solved("base", setting), shares=True)
            for setting in dict.fromkeys(("hard-sample", f"{mode}-sample"))
        }
        for mode in MODES
    }


def train_config(mode: str, output: Path, config: QuickstartConfig) -> TrainConfig:
    """The configuration that one mode is trained with."""
    return TrainConfig(
        output=str(output / mode),
        thought=THOUGHTS.get(mode, ThoughtConfig(mode)),
        task=TaskConfig(name="arithmetic", limit=4000),
        seed=config.seed,
        steps=config.steps or STEPS,
        learning_rate=1e-4,
        problems_per_step=16,
        group_size=16,
        max_thought_steps=MAX_THOUGHT_STEPS,
        max_answer_tokens=MAX_ANSWER_TOKENS,
        warmup_steps=5,
        validate_every=10,
        validation_problems=128,
        save_every=20,
        device="cpu",
    )


def evaluate_config(name: str, model: str, output: Path, config: QuickstartConfig) -> EvaluateConfig:
    """The configuration that one model is evaluated with, into the folder that all of them share."""
    return EvaluateConfig(
        models=(f"{name}={model}",),
        task=TaskConfig(name="arithmetic", limit=config.problems),
        samples=config.samples,
        max_thought_steps=MAX_THOUGHT_STEPS,
        max_answer_tokens=MAX_ANSWER_TOKENS,
        profile=PROFILED,
        traces=TRACED,
        choices=("facts",),
        seed=config.seed + 1,
        output=str(output / EVALUATION),
        device="cpu",
    )


def _run_jobs(names: tuple[str, ...], output: Path, config: QuickstartConfig, listener: QuickstartListener) -> None:
    """Run one process per job, at most one per core at a time. The first that fails ends the rest: RuntimeError."""
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    waiting = list(names)
    running: dict[str, multiprocessing.process.BaseProcess] = {}
    try:
        while waiting or running:
            while waiting and len(running) < _cores():
                name = waiting.pop(0)
                running[name] = context.Process(target=_job, args=(name, output, config, messages), daemon=True)
                running[name].start()
            _forward(messages, listener)
            for name in [name for name, process in running.items() if process.exitcode is not None]:
                code = running.pop(name).exitcode
                _forward(messages, listener)
                if code != 0:
                    raise RuntimeError(f"the {name} job of the quickstart ended with code {code}")
    finally:
        for process in running.values():
            process.kill()


def _job(name: str, output: Path, config: QuickstartConfig, messages: Messages) -> None:
    """The work of one process: train one model (unless it is the base), evaluate it, and write the results to files."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its child processes
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    from softtokens.evaluate.run import evaluate
    from softtokens.train.loop import train

    torch.set_num_threads(1)
    started = time.perf_counter()
    model = "tiny"
    (output / name).mkdir(exist_ok=True)
    try:
        if name != "base":
            train(
                train_config(name, output, config),
                listener=lambda done, metrics: messages.put((name, "train", done, metrics)),
            )
            model = str(output / name)  # its best checkpoint by validation, as in the paper
        trained = time.perf_counter()
        evaluate(
            evaluate_config(name, model, output, config),
            listener=lambda event: messages.put((name, "evaluate", event.done, {})),
        )
    except (UserError, OSError, RuntimeError, FloatingPointError) as error:
        messages.put((name, "failed", 0, {"error": f"{type(error).__name__}: {error}"}))
        messages.close()
        messages.join_thread()
        sys.exit(1)
    seconds = {"train": trained - started, "evaluate": time.perf_counter() - trained}
    write_json(output / name / "seconds.json", seconds)


def _end_with_parent() -> None:
    """End this process when its parent ends: a killed parent cannot end its processes."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is no child process"
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _forward(messages: Messages, listener: QuickstartListener) -> None:
    """Pass messages on to the listener; waits a moment if there are none."""
    try:
        name, phase, done, content = messages.get(timeout=0.1)
        while True:
            if phase == "failed":
                raise RuntimeError(f"the {name} job of the quickstart failed. {content['error']}")
            listener(name, phase, done, content)
            name, phase, done, content = messages.get_nowait()
    except queue.Empty:
        return


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _totals(config: QuickstartConfig) -> dict[tuple[str, str], int]:
    """The amount of work for the progress display: (name, phase) -> units."""
    samples = config.problems * 3 * (1 + config.samples)
    totals = {("base", "evaluate"): samples}
    for mode in MODES:
        totals |= {(mode, "train"): config.steps or STEPS, (mode, "evaluate"): samples}
    return totals
