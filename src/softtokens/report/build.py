"""From folders to a page: load, compose, write; once, or repeatedly while a run is in progress."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

from softtokens import __version__
from softtokens.config.commands import ReportConfig
from softtokens.files import expanded, write_atomically
from softtokens.report import figure_files
from softtokens.report.compose import compose
from softtokens.report.page import render
from softtokens.report.sources import load
from softtokens.report.watch import EVERY_SECONDS, watch
from softtokens.types import UserError

FILE = "report.html"
_RELOAD_SECONDS = 2 * EVERY_SECONDS + 1


def report(config: ReportConfig) -> Path:
    """Write the report of the given folders and return its path. With watch, repeat until Ctrl-C.

    Raises UserError if there is nothing to report on, if the output cannot be written, and if figures are requested
    without matplotlib.
    """
    if config.figures is not None:
        figure_files.require_matplotlib(config.figures)
    if not config.watch:
        return build(config)
    output = place(config)
    print(f"report: {output}, updated whenever the files change; press Ctrl-C to stop", flush=True)
    written = False

    def write() -> None:
        nonlocal written
        try:
            build(config, reload_seconds=_RELOAD_SECONDS)
            written = True
        except UserError as error:
            if not written:
                raise
            # a run that starts over clears its folder first
            print(f"softtokens: {error} The page stays as it is until the files change.", file=sys.stderr, flush=True)

    try:
        watch(config.runs, write)
    except KeyboardInterrupt:
        build(config)  # once more, without the reload
    return output


def build(config: ReportConfig, *, reload_seconds: float | None = None) -> Path:
    """Write the page once, and the figures if requested."""
    output = place(config)
    made = compose(load(config.runs))
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
    page = render(made, version=__version__, made=now, reload_seconds=reload_seconds)
    try:
        write_atomically(output, page)  # a browser may be reading the old page
    except OSError as error:
        raise UserError(f"output is {str(output)!r}, which cannot be written: {error.strerror}") from error
    if config.figures is not None:
        figure_files.write_all(made, Path(expanded(config.figures)))
    return output


def place(config: ReportConfig) -> Path:
    """Path of the page: the given output; otherwise inside the folder if only one is given; otherwise in the current
    folder."""
    if config.output is not None:
        return Path(expanded(config.output))
    return Path(expanded(config.runs[0])) / FILE if len(config.runs) == 1 else Path(FILE)
