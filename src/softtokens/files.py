"""Paths as users write them, and files that are whole or not there."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

from softtokens.types import UserError


def expanded(path: str | Path) -> str:
    """With ~ and environment variables filled in: a shell does that for most flags, but not for NAME=~/x, for a TOML
    file or for Python. What is no path, such as a hub name, stays as it is."""
    return os.path.expandvars(os.path.expanduser(path))


def new_folder(output: str) -> Path:
    """Make the folder that results go into. UserError when it cannot be made or already holds something."""
    folder = Path(expanded(output))
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"output is {output!r}, which already holds something; give a new folder")
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"output is {output!r}, which cannot be made: {error}") from error
    return folder


def write_atomically(file: Path, text: str) -> None:
    """Write a file whole or not at all, also when the machine goes down: next to its place, flushed to disk, renamed.

    Makes the folder where it is missing. Characters that UTF-8 has no bytes for become question marks. Raises OSError;
    the old file is then untouched.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(unfinished, "w", encoding="utf-8", errors="replace") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.replace(unfinished, file)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    flush_to_disk(file.parent)


def write_json(file: Path, content: dict[str, Any], *, indent: int | None = None) -> None:
    """Write JSON whole or not at all; numbers that are not finite become null. Raises OSError."""
    write_atomically(file, json_text(content, indent=indent) + "\n")


def json_text(content: dict[str, Any], *, indent: int | None = None) -> str:
    """JSON, on one line without an indent; numbers that are not finite become null."""
    return json.dumps(_without_nan(content), allow_nan=False, indent=indent)


def read_json(file: Path) -> dict[str, Any] | None:
    """The object in a file; None where it is missing or damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def flush_to_disk(path: Path) -> None:
    """Push a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _without_nan(value: Any) -> Any:
    """The same data with None for numbers that are not finite: what could not be measured."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
