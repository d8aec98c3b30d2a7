"""From the arguments of softtokens COMMAND to an exit code: parse, run, and report failures in one line."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn, TextIO

from softtokens import __version__
from softtokens.cli.commands import COMMANDS
from softtokens.config.toml import load_defaults
from softtokens.files import expanded
from softtokens.train.interrupt import Stopped
from softtokens.types import OtherProcessFailed, UserError
from softtokens.world.launch import launch

EXIT_RUNTIME, EXIT_USAGE = 1, 2
EXIT_REQUEUE = 75  # EX_TEMPFAIL: stopped by a signal and saved; --resume continues
_HOW_TO_CONTINUE = {
    "train": " The checkpoints are intact. To continue, run the same command with --resume.",
    "evaluate": " The samples drawn so far are saved. To continue, run the same command.",
}
DEBUG = "SOFTTOKENS_DEBUG"  # environment variable: show the traceback of runtime failures


def run() -> NoReturn:
    """Run the command of this process, and end the process."""
    end(main())


def end(code: int) -> NoReturn:
    """End the process with this exit code.

    One of several processes skips the interpreter's finalization: threads of the communication libraries that still
    hold Python objects would abort it, and the launcher would take a finished run for a failed one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(UserError):  # the command has already reported a broken launcher
        if launch().size > 1:
            os._exit(code)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0, 1 for a failure at run time, 2 for unusable input, 75 for a run that
    stopped and was saved."""
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
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the final flush must not fail
        return EXIT_RUNTIME
    except UserError as error:
        return _complain(str(error), EXIT_USAGE)
    except Stopped as stopped:
        if not launch().is_main:
            return EXIT_REQUEUE
        advice = " To continue, run the same command with --resume." if arguments[0] == "train" else ""
        return _complain(f"{stopped}{advice}", EXIT_REQUEUE)
    except OtherProcessFailed:
        return EXIT_RUNTIME
    except KeyboardInterrupt:
        return _complain(f"stopped by Ctrl-C.{_HOW_TO_CONTINUE.get(arguments[0], '')}", EXIT_RUNTIME)
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
        raise UserError(f"unknown command {name!r}; the commands are {', '.join(COMMANDS)}. See softtokens --help.")
    config, dry_run = parse(name, flags)
    if dry_run:
        print(json.dumps(dataclasses.asdict(config), indent=2))
        return 0
    COMMANDS[name].run(config)
    return 0


def parse(name: str, flags: list[str]) -> tuple[Any, bool]:
    """The resolved configuration of a command (defaults, then --config files, then flags), and whether --dry-run was
    given."""
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
        description=f"{inspect.getdoc(command.config)}\n\n"
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


def _show_thread_error(failure: threading.ExceptHookArgs) -> None:
    """Report an error of a background thread, such as TensorBoard's writer on a full disk, in one line."""
    print(
        f"softtokens: error in a background thread: {failure.exc_type.__name__}: {failure.exc_value}", file=sys.stderr
    )


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del category, filename, lineno, file, line
    print(f"softtokens: warning: {message}", file=sys.stderr)
