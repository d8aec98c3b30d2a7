"""From folders to a page: load, compose, write; once, or for as long as a run goes on."""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
from pathlib import Path

from softtokens import __version__
from softtokens.config import ReportConfig
from softtokens.paths import expanded
from softtokens.report import export
from softtokens.report.compose import compose
from softtokens.report.page import render
from softtokens.report.sources import load
from softtokens.report.watch import EVERY_SECONDS, watch
from softtokens.types import UserError

FILE = "report.html"
_RELOAD_SECONDS = 2 * EVERY_SECONDS + 1


def report(config: ReportConfig) -> Path:
    """Write the report of the given folders; returns its path. With watch, goes on until Ctrl-C.

    Raises UserError for what cannot be reported on or written, and when figures are asked for without matplotlib.
    """
    if config.figures is not None:
        export.require_matplotlib(config.figures)
    if not config.watch:
        return build(config)
    output = place(config)
    print(f"report: {output}, written again when the files change; Ctrl-C ends it", flush=True)
    written = False

    def write() -> None:
        nonlocal written
        try:
            build(config, reload_seconds=_RELOAD_SECONDS)
            written = True
        except UserError as error:
            if not written:
                raise
            # a run that starts anew clears its folder first
            print(f"softtokens: {error} The page stays as it is until the files change.", file=sys.stderr, flush=True)

    try:
        watch(config.runs, write)
    except KeyboardInterrupt:
        build(config)  # a last time, as a page that stays
    return output


def build(config: ReportConfig, *, reload_seconds: float | None = None) -> Path:
    """Write the page once, and the figures where asked for."""
    output = place(config)
    made = compose(load(config.runs))
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
    write_whole(output, render(made, version=__version__, made=now, reload_seconds=reload_seconds))
    if config.figures is not None:
        export.write_all(made, Path(expanded(config.figures)))
    return output


def place(config: ReportConfig) -> Path:
    """Where the page goes: as asked, or into the one folder that it is about, or into the current folder."""
    if config.output is not None:
        return Path(expanded(config.output))
    return Path(expanded(config.runs[0])) / FILE if len(config.runs) == 1 else Path(FILE)


def write_whole(path: Path, content: str) -> None:
    """Whole or not at all: a browser may be reading the old page."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(content, encoding="utf-8", errors="replace")
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise UserError(f"output is {str(path)!r}, which cannot be written: {error.strerror}") from error
