"""Paths as users write them, and files that are written completely or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

from softtokens.types import UserError


def expanded(path: str | Path) -> str:
    """The path with ~ and environment variables expanded. A shell does this for most flags, but not for NAME=~/x, a
    TOML file or Python. Anything else, such as a hub name, stays as it is."""
    return os.path.expandvars(os.path.expanduser(path))


def new_folder(output: str) -> Path:
    """Create the folder for results. UserError if it cannot be created or is not empty."""
    folder = Path(expanded(output))
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"output is {output!r}, which already exists and is not empty; give a new folder")
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"output is {output!r}, which cannot be created: {error}") from error
    return folder


def write_atomically(file: Path, text: str) -> None:
    """Write a file completely or not at all, even if the machine goes down: written next to its place, flushed to disk,
    renamed.

    Creates the folder if it is missing. Characters that UTF-8 cannot encode become question marks. Raises OSError; the
    old file is then unchanged.
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
    """Write JSON completely or not at all; values that are not finite become null. Raises OSError."""
    write_atomically(file, json_text(content, indent=indent) + "\n")


def json_text(content: dict[str, Any], *, indent: int | None = None) -> str:
    """JSON text, on one line without an indent; values that are not finite become null."""
    return json.dumps(_without_nan(content), allow_nan=False, indent=indent)


def read_json(file: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None if the file is missing or damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def flush_to_disk(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
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
