"""From folders to a page: load, compose, write."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from softtokens import __version__
from softtokens.config import ReportConfig
from softtokens.report.compose import compose
from softtokens.report.page import render
from softtokens.report.sources import load
from softtokens.types import UserError

FILE = "report.html"


def report(config: ReportConfig) -> Path:
    """Write the report of the given folders; returns its path. Raises UserError for what cannot be reported on."""
    return build(config)


def build(config: ReportConfig, *, reload_seconds: float | None = None) -> Path:
    """Write the page once."""
    output = place(config)
    page = render(
        compose(load(config.runs)),
        version=__version__,
        made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        reload_seconds=reload_seconds,
    )
    _write(output, page)
    return output


def place(config: ReportConfig) -> Path:
    """Where the page goes: as asked, or into the one folder that it is about, or into the current folder."""
    if config.output is not None:
        return Path(config.output)
    return Path(config.runs[0]) / FILE if len(config.runs) == 1 else Path(FILE)


def _write(path: Path, content: str) -> None:
    """Whole or not at all: a browser may be reading the old page."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(content, encoding="utf-8", errors="replace")
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise UserError(f"output is {str(path)!r}, which cannot be written: {error.strerror}") from error
