"""The commands: their configuration, what they run and what they print. torch is imported when a command runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from softtokens.config.commands import ExportConfig, GenerateConfig, QuickstartConfig, ReplayStepConfig, ReportConfig
from softtokens.config.evaluate import CompareConfig, EvaluateConfig
from softtokens.config.plan import PlanConfig
from softtokens.config.signal import SignalConfig
from softtokens.config.train import TrainConfig
from softtokens.files import expanded, json_text, new_folder, write_json
from softtokens.types import UserError
from softtokens.world.launch import launch


def _quickstart(config: QuickstartConfig) -> None:
    from softtokens.cli.quickstart import quickstart

    quickstart(config)


def _train(config: TrainConfig) -> None:
    from rich.markup import escape

    from softtokens.cli import progress
    from softtokens.train.loop import train

    if not launch().is_main:
        train(config)
        return
    with progress.training(config.steps, f"training in {config.thought.mode} mode") as listener:
        run = escape(str(train(config, listener=listener)))
    progress.console.print(f"run directory: [bold]{run}[/]")


def _plan(config: PlanConfig) -> None:
    from softtokens.cli import progress
    from softtokens.plan.run import plan
    from softtokens.plan.show import as_json, memory_table, time_table, verdict

    planned = plan(config)
    if config.json:
        print(json.dumps(as_json(planned), indent=1))
        return
    progress.console.print(memory_table(planned))
    progress.console.print(time_table(planned))
    for line in verdict(planned):
        progress.console.print(line, highlight=False, markup=False)


def _signal(config: SignalConfig) -> None:
    from softtokens.cli import progress
    from softtokens.signal.measure import signal
    from softtokens.signal.show import FILE, as_json, name_of, sentence, signal_table

    if not launch().is_main:
        signal(config)
        return
    folder = new_folder(config.output) if config.output is not None else None
    with progress.signal(len(config.settings), config.batches) as listener:
        measured = signal(config, listener=listener)
    if folder is not None:
        write_json(folder / FILE, as_json(measured), indent=1)
    if config.json:
        print(json_text(as_json(measured), indent=1))
        return
    progress.console.print(signal_table(measured))
    for setting in measured.settings:
        line = f"{name_of(setting.thought)}: {sentence(measured, setting)}"
        progress.console.print(line, highlight=False, markup=False)


def _evaluate(config: EvaluateConfig) -> None:
    from rich.markup import escape

    from softtokens.cli import progress, tables
    from softtokens.evaluate.results import read_results
    from softtokens.evaluate.run import evaluate

    if not launch().is_main:
        evaluate(config)
        return
    with progress.evaluation() as listener:
        root = evaluate(config, listener=listener)
    results = read_results(root)
    for table in tables.evaluation_tables(results):
        progress.console.print(table)
    if config.world is not None:
        ready = f"{len(results.summaries)} cells of the folder are complete"
        progress.console.print(f"part {config.rank} of {config.world} is done; {ready}")
    progress.console.print(f"evaluation: [bold]{escape(str(root))}[/]")


def _compare(config: CompareConfig) -> None:
    from softtokens.cli import progress, tables
    from softtokens.evaluate.compare import compare

    comparisons = compare(config)
    for table in tables.comparison_tables(comparisons):
        progress.console.print(table)
    for note in tables.comparison_notes(comparisons):
        progress.console.print(note, highlight=False, markup=False)
    if config.output is not None:
        try:
            write_json(Path(expanded(config.output)), comparisons, indent=1)
        except OSError as error:
            raise UserError(f"output is {config.output!r}, which cannot be written: {error.strerror}") from error


def _report(config: ReportConfig) -> None:
    from softtokens.report.build import report

    print(f"report: {report(config)}")


def _generate(config: GenerateConfig) -> None:
    from softtokens.cli.generate import generate

    generate(config)


def _export(config: ExportConfig) -> None:
    from softtokens.cli.export import export

    print(f"model folder: {export(config)}")


def _replay_step(config: ReplayStepConfig) -> None:
    from softtokens.cli.replay_step import replay_step

    replay_step(config)


@dataclasses.dataclass(frozen=True)
class Command:
    config: type
    run: Callable[[Any], None]
    about: str


COMMANDS = {
    "quickstart": Command(QuickstartConfig, _quickstart, "train a tiny model in all three modes and compare (minutes)"),
    "train": Command(TrainConfig, _train, "train a model by RLOO while it thinks in hard, soft or fuzzy tokens"),
    "plan": Command(PlanConfig, _plan, "estimate memory and time of a training run"),
    "signal": Command(SignalConfig, _signal, "measure how much of a gradient is signal, before a long run"),
    "evaluate": Command(EvaluateConfig, _evaluate, "measure pass@k of models in the six settings of inference"),
    "compare": Command(CompareConfig, _compare, "compare models and settings of an evaluation, paired, with p-values"),
    "report": Command(ReportConfig, _report, "write one HTML page about training runs and evaluations"),
    "export": Command(ExportConfig, _export, "write a trained model as an ordinary folder, adapters merged"),
    "replay-step": Command(
        ReplayStepConfig, _replay_step, "re-run a skipped training step (values that were not finite)"
    ),
    "generate": Command(GenerateConfig, _generate, "show the thoughts and the answer to one question"),
}
