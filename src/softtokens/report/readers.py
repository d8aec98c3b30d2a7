"""Read files that may be damaged, truncated or of another version. What cannot be read becomes a note."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from softtokens.evaluate.folder import SCHEMA

_AS_GOOD_AS_INFINITE = 1e100  # sums and squares of smaller numbers stay finite


def read_object(path: Path, notes: list[str]) -> dict[str, Any] | None:
    """The JSON object in a file. None if the file is missing, or (with a note) damaged."""
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        notes.append(f"{path} skipped: it could not be read ({error.strerror}).")
        return None
    try:
        value = _parse(text)
    except (ValueError, RecursionError) as error:
        notes.append(f"{path} skipped: it is damaged ({_brief(error)}).")
        return None
    if not isinstance(value, dict):
        notes.append(f"{path} skipped: it holds no JSON object.")
        return None
    return value


def read_rows(path: Path, notes: list[str], limit: int | None = None) -> list[dict[str, Any]]:
    """The objects of a .jsonl file, at most the first `limit`.

    Damaged lines are counted in a note. A truncated last line gives none: the run is still writing, or was killed.
    """
    rows: list[dict[str, Any]] = []
    damaged, cut = 0, False
    for line in _lines(path, notes):
        if limit is not None and len(rows) >= limit:
            break
        if not line.strip():
            continue
        cut = not line.endswith(b"\n")
        try:
            value = _parse(line.decode("utf-8", errors="replace"))
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            rows.append(value)
        else:
            damaged += 1
    if damaged == 1 and cut:
        notes.append(f"{path} ends in the middle of a line (still being written, or interrupted); it is skipped.")
    elif damaged:
        notes.append(f"{path}: {damaged} damaged lines are skipped.")
    return rows


def note_schema(what: Path, content: dict[str, Any], notes: list[str]) -> None:
    """Add a note if a file has another schema than this version writes."""
    schema = content.get("schema")
    if schema == SCHEMA:
        return
    age = "names no schema" if schema is None else f"has schema {str(schema)[:20]}"
    notes.append(f"{what} {age}; this version reads schema {SCHEMA}. What it does not find is shown as not measured.")


def number(value: Any) -> float | None:
    """A finite number, or None for anything else that a file may hold in its place."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < _AS_GOOD_AS_INFINITE else None  # False for NaN too


def numbers(values: Any) -> list[float | None]:
    return [number(value) for value in values] if isinstance(values, list) else []


def table(values: Any) -> dict[str, Any]:
    return values if isinstance(values, dict) else {}


def rows_of(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def text(value: Any, otherwise: str = "") -> str:
    return value if isinstance(value, str) else otherwise if value is None else str(value)


def _lines(path: Path, notes: list[str]) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            yield from file
    except FileNotFoundError:
        return
    except OSError as error:
        notes.append(f"{path} skipped: it could not be read ({error.strerror}).")


def _parse(content: str) -> Any:
    return json.loads(content, parse_constant=lambda name: None)


def _brief(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:100]
