"""Where metrics go: metrics.jsonl always, TensorBoard always, Weights & Biases when asked."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from softtokens.types import UserError


class JsonLines:
    """An append-only file of JSON objects, one per line, that can be cut back to an earlier length on resume."""

    def __init__(self, path: Path, keep_bytes: int):
        self._file = open(path, "ab")  # noqa: SIM115 (closed by close)
        if self._file.tell() < keep_bytes:
            self._file.close()
            raise UserError(
                f"{path} is shorter than when the checkpoint was saved, so something else has written to it; resume "
                "with the original file, or give a new output folder"
            )
        self._file.truncate(keep_bytes)
        self._file.seek(0, os.SEEK_END)

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row, allow_nan=False, default=str).encode() + b"\n")
        self._file.flush()

    def position(self) -> int:
        """Bytes written, safe on disk."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


class Tracker:
    """Writes a step's metrics to all places. start_step: first step to come; later ones of a killed run are dropped."""

    def __init__(self, run: Path, *, keep_bytes: int, start_step: int, wandb_project: str | None, config: dict):
        from torch.utils.tensorboard import SummaryWriter

        self.lines = JsonLines(run / "metrics.jsonl", keep_bytes)
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=start_step)
        self._wandb = _start_wandb(wandb_project, run, config) if wandb_project else None

    def log(self, step: int, metrics: dict[str, float]) -> None:
        finite = {k: (v if v == v and abs(v) != float("inf") else None) for k, v in metrics.items()}
        self.lines.write({"step": step} | finite)
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(metrics, step=step)

    def close(self) -> None:
        with contextlib.ExitStack() as closing:  # all of them, even if a disk is full
            if self._wandb is not None:
                closing.callback(self._wandb.finish)
            closing.callback(self._board.close)
            closing.callback(self.lines.close)


def require_wandb(project: str | None) -> None:
    """UserError when logging to Weights & Biases is asked for and the package is missing."""
    if project and importlib.util.find_spec("wandb") is None:
        raise UserError(f"wandb is {project!r}, but the package is not installed; pip install 'softtokens[wandb]'")


def _start_wandb(project: str, run: Path, config: dict):
    import wandb

    return wandb.init(project=project, name=run.name, dir=str(run), config=config, resume="allow")
