"""The problems that a run trains and validates on, recorded in RUN/problems.json. A resumed run must train on the same
ones; new validation problems restart the record of the best checkpoint."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from softtokens.files import write_json
from softtokens.task_setup import problems_sha256
from softtokens.types import Problem, UserError

_FILE = "problems.json"
Record = dict[str, dict[str, int | str]]


def record_of(**problems: Sequence[Problem]) -> Record:
    """Number and SHA-256 of the problems, by part (training, validation)."""
    return {name: {"problems": len(part), "sha256": problems_sha256(part)} for name, part in problems.items()}


def require_same(run: Path, record: Record) -> None:
    """UserError when a run that is resumed had other problems."""
    file = run / _FILE
    if not file.is_file():
        return
    try:
        before = json.loads(file.read_text())
        changed = [
            f"{name} had {before[name]['problems']} problems, and has {now['problems']}"
            + (" with another text or answer" if before[name]["problems"] == now["problems"] else "")
            for name, now in record.items()
            if before[name]["sha256"] != now["sha256"] and before[name]["problems"] and now["problems"]  # or not used
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); restore it, or give a new output folder") from error
    if changed:
        raise UserError(
            f"{str(run)!r} holds a run on other problems: {', '.join(changed)}; resume with the data as it was, or "
            "give a new output folder"
        )


def write(run: Path, record: Record) -> None:
    """Write the record into the folder of a run that starts or resumes."""
    write_json(run / _FILE, record)
