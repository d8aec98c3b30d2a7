"""Where a run keeps its models: checkpoints/step-N, and `best` and `last`, which are links to two of them.

A copy of a run may have lost the links, or have folders in their place. Knows no torch.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

FOLDER = "checkpoints"
STATE = "trainer.json"
_NAME = re.compile(r"step-(\d+)", re.ASCII)


def checkpoint_name(step: int) -> str:
    return f"step-{step:06d}"


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, by step. From a million steps on their names are longer and do not sort as text."""
    return sorted(filter(_is_checkpoint, (run / FOLDER).glob("step-*")), key=step_of)


def step_of(checkpoint: Path) -> int:
    name = _NAME.fullmatch(checkpoint.name)
    assert name is not None, checkpoint
    return int(name[1])


def _is_checkpoint(path: Path) -> bool:
    return _NAME.fullmatch(path.name) is not None


def named_checkpoint(name: str | Path) -> Path | None:
    """The checkpoint named RUN@STEP, RUN@last or RUN@best, or the checkpoint in this folder; None if there is none."""
    path = Path(name)
    if (path / STATE).is_file():
        return path
    run, _, which = str(name).rpartition("@")
    known = which in ("last", "best") or which.isdecimal()
    if path.exists() or not run or not known:
        return None
    folder = Path(run) / FOLDER / (checkpoint_name(int(which)) if which.isdecimal() else which)
    return folder if (folder / STATE).is_file() else None


def best_checkpoint(path: Path) -> Path:
    """For a run's folder, its best checkpoint, or the last one of a run without validation. For RUN@STEP that
    checkpoint. Any other path is returned as it is."""
    if (named := named_checkpoint(path)) is not None:
        return named
    links = [path / FOLDER / link for link in ("best", "last")]
    linked = next((link for link in links if link.is_dir()), None)
    steps = checkpoints(path)
    if linked is not None or not steps:
        return linked or path
    try:
        best = json.loads((steps[-1] / STATE).read_text())["best_step"]
        named = path / FOLDER / checkpoint_name(best)
    except (OSError, ValueError, KeyError, TypeError):
        return steps[-1]
    return named if named.is_dir() else steps[-1]
