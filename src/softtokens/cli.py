"""The command line: softtokens COMMAND, one of COMMANDS. Torch is imported when a command runs."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from softtokens import __version__
from softtokens.config import (
    ExportConfig,
    GenerateConfig,
    QuickstartConfig,
    ReplayStepConfig,
    ReportConfig,
    TrainConfig,
)
from softtokens.configfile import load_defaults
from softtokens.evaluateconfig import CompareConfig, EvaluateConfig
from softtokens.launch import launch
from softtokens.paths import expanded
from softtokens.planconfig import PlanConfig
from softtokens.signalconfig import SignalConfig
from softtokens.train.stop import Stopped
from softtokens.types import Elsewhere, UserError

EXIT_RUNTIME, EXIT_USAGE = 1, 2
EXIT_REQUEUE = 75  # EX_TEMPFAIL: stopped from outside, saved; the same command with --resume goes on
_GO_ON = {
    "train": " What was saved is whole; go on with the same command and --resume.",
    "evaluate": " What was sampled is kept; the same command goes on.",
}
DEBUG = "SOFTTOKENS_DEBUG"  # set in the environment: failures at run time come with their traceback


def _quickstart(config: QuickstartConfig) -> None:
    from softtokens.quickstart import quickstart

    quickstart(config)


def _train(config: TrainConfig) -> None:
    from rich.markup import escape

    from softtokens import live
    from softtokens.train.loop import train

    if not launch().is_main:
        train(config)
        return
    with live.training(config.steps, f"training in {config.thought.mode} mode") as listener:
        run = escape(str(train(config, listener=listener)))
    live.console.print(f"run directory: [bold]{run}[/]")


def _plan(config: PlanConfig) -> None:
    from softtokens import live
    from softtokens.plan.run import plan
    from softtokens.plan.show import as_json, memory_table, time_table, verdict

    found = plan(config)
    if config.json:
        print(json.dumps(as_json(found), indent=1))
        return
    live.console.print(memory_table(found))
    live.console.print(time_table(found))
    for line in verdict(found):
        live.console.print(line, highlight=False, markup=False)


def _signal(config: SignalConfig) -> None:
    from softtokens import live
    from softtokens.assemble import new_folder
    from softtokens.signal.measure import signal
    from softtokens.signal.show import FILE, as_json, name_of, sentence, signal_table

    if not launch().is_main:
        signal(config)
        return
    folder = new_folder(config.output) if config.output is not None else None
    with live.signal(len(config.settings), config.batches) as listener:
        measured = signal(config, listener=listener)
    if folder is not None:
        (folder / FILE).write_text(json.dumps(as_json(measured), indent=1) + "\n")
    if config.json:
        print(json.dumps(as_json(measured), indent=1))
        return
    live.console.print(signal_table(measured))
    for one in measured.settings:
        line = f"{name_of(one.thought)}: {sentence(measured, one)}"
        live.console.print(line, highlight=False, markup=False)


def _evaluate(config: EvaluateConfig) -> None:
    from rich.markup import escape

    from softtokens import live, tables
    from softtokens.evaluate.results import read_results
    from softtokens.evaluate.run import evaluate

    with live.evaluation() as listener:
        root = evaluate(config, listener=listener)
    for table in tables.evaluation_tables(read_results(root)):
        live.console.print(table)
    live.console.print(f"evaluation: [bold]{escape(str(root))}[/]")


def _compare(config: CompareConfig) -> None:
    from softtokens import live, tables
    from softtokens.evaluate.compare import compare

    found = compare(config)
    for table in tables.comparison_tables(found):
        live.console.print(table)
    for note in tables.comparison_notes(found):
        live.console.print(note, highlight=False, markup=False)
    if config.output is not None:
        try:
            Path(expanded(config.output)).write_text(json.dumps(found, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"output is {config.output!r}, which cannot be written: {error.strerror}") from error


def _report(config: ReportConfig) -> None:
    from softtokens.report.build import report

    print(f"report: {report(config)}")


def _generate(config: GenerateConfig) -> None:
    from softtokens.generate import generate

    generate(config)


def _export(config: ExportConfig) -> None:
    from softtokens.export import export

    print(f"model folder: {export(config)}")


def _replay_step(config: ReplayStepConfig) -> None:
    from softtokens.replaystep import replay_step

    replay_step(config)


@dataclasses.dataclass(frozen=True)
class Command:
    config: type
    run: Callable[[Any], None]
    about: str


COMMANDS = {
    "quickstart": Command(QuickstartConfig, _quickstart, "train a tiny model in all three modes and compare (minutes)"),
    "train": Command(TrainConfig, _train, "train a model by RLOO while it thinks in hard, soft or fuzzy tokens"),
    "plan": Command(PlanConfig, _plan, "say what a training run will take of memory and time"),
    "signal": Command(SignalConfig, _signal, "say how much of a training run's gradient is signal, before the run"),
    "evaluate": Command(EvaluateConfig, _evaluate, "measure pass@k of models in the six settings of inference"),
    "compare": Command(CompareConfig, _compare, "tell which differences in an evaluation are more than luck"),
    "report": Command(ReportConfig, _report, "write one HTML page about training runs and evaluations"),
    "export": Command(ExportConfig, _export, "write a trained model as an ordinary folder, adapters merged"),
    "replay-step": Command(ReplayStepConfig, _replay_step, "run a step again whose numbers were not finite"),
    "generate": Command(GenerateConfig, _generate, "show the thoughts and the answer to one question"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 for a failure at run time, 2 for something wrong in what was asked."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    warnings.showwarning = _show_warning
    logging.basicConfig(format="softtokens: %(message)s")
    logging.getLogger("softtokens").setLevel(logging.INFO)
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _show_thread_error
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as head, has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        return EXIT_RUNTIME
    except UserError as error:
        return _complain(str(error), EXIT_USAGE)
    except Stopped as stopped:
        if not launch().is_main:
            return EXIT_REQUEUE
        go_on = " Go on with the same command and --resume." if arguments[0] == "train" else ""
        return _complain(f"{stopped}; all of them are saved.{go_on}", EXIT_REQUEUE)
    except Elsewhere:
        return EXIT_RUNTIME
    except KeyboardInterrupt:
        return _complain(f"stopped by Ctrl-C.{_GO_ON.get(arguments[0], '')}", EXIT_RUNTIME)
    except (OSError, RuntimeError, ValueError, FloatingPointError, MemoryError) as error:
        if os.environ.get(DEBUG):
            raise
        return _complain(f"{type(error).__name__}: {error}", EXIT_RUNTIME)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else EXIT_USAGE
    if arguments[0] == "--version":
        print(f"softtokens {__version__}")
        return 0
    name, *flags = arguments
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}; there is {', '.join(COMMANDS)}. See softtokens --help.")
    config, dry_run = parse(name, flags)
    if dry_run:
        print(json.dumps(dataclasses.asdict(config), indent=2))
        return 0
    COMMANDS[name].run(config)
    return 0


def parse(name: str, flags: list[str]) -> tuple[Any, bool]:
    """The resolved configuration of a command: defaults, then --config FILEs, then flags; and whether to stop there."""
    import tyro

    command = COMMANDS[name]
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    common.add_argument("--config", action="append", default=[])
    common.add_argument("--dry-run", action="store_true")
    try:
        known, rest = common.parse_known_args(flags)
    except argparse.ArgumentError as error:
        raise UserError("--config needs the name of a TOML file") from error
    default = load_defaults(command.config, list(map(expanded, known.config))) if known.config else None
    config = tyro.cli(
        command.config,
        args=rest,
        prog=f"softtokens {name}",
        description=f"{inspect.cleandoc(command.config.__doc__)}\n\n"
        "--config FILE.toml sets defaults from a file, and may be given several times (a later file wins, flags win "
        "over all); --dry-run prints the configuration and stops.",
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalRequiredArgs),
        **({} if default is None else {"default": default}),
    )
    return config, known.dry_run


def _overview() -> str:
    rows = "\n".join(f"  {name:<11} {command.about}" for name, command in COMMANDS.items())
    return (
        "softtokens: continuous chain-of-thought trained by reinforcement learning\n\n"
        f"usage: softtokens COMMAND [--config FILE.toml] [--dry-run] [flags]\n\n{rows}\n\n"
        "Each command explains its flags: softtokens train --help\n"
        f"With {DEBUG}=1 in the environment a failure shows its traceback."
    )


def _complain(message: str, code: int) -> int:
    print(f"softtokens: {message}", file=sys.stderr)
    return code


def _show_thread_error(failure) -> None:
    """TensorBoard writes in a thread, which says so itself when the disk is full."""
    print(f"softtokens: in the background: {failure.exc_type.__name__}: {failure.exc_value}", file=sys.stderr)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    del category, filename, lineno, file, line
    print(f"softtokens: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
