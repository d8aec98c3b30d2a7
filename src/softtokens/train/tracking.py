"""Where metrics go: metrics.jsonl always, TensorBoard always, Weights & Biases when asked."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import json
import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from softtokens.config.train import TrainConfig
from softtokens.files import write_atomically
from softtokens.train.checkpoint import Progress
from softtokens.types import UserError

log = logging.getLogger(__name__)
_WANDB_ID = "wandb-id"


class JsonLines:
    """An append-only file of JSON objects, one per line, that can be cut back to an earlier length on resume."""

    def __init__(self, path: Path, keep_bytes: int):
        self._file = open(path, "a+b")  # noqa: SIM115 (closed by close)
        self._file.seek(max(keep_bytes - 1, 0))
        last = self._file.read(1) if keep_bytes else b"\n"
        if last != b"\n":
            self._file.close()
            what = "is shorter" if not last else "has other line ends, or other lines,"
            raise UserError(
                f"{path} {what} than when the checkpoint was saved, so something else has written to it; resume with "
                "the original file (without the \\r of Windows line ends), or give a new output folder"
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
    """Writes a step's metrics to all places. start_step: first step to come; later ones of a killed run are dropped.

    A tracker that fails is left out from then on, with a warning: metrics.jsonl has everything.
    """

    def __init__(self, run: Path, *, keep_bytes: int, start_step: int, wandb_project: str | None, config: dict):
        self.lines = JsonLines(run / "metrics.jsonl", keep_bytes)
        self._boards: dict[str, _Board] = {}
        self._try("TensorBoard", lambda: self._boards.update(TensorBoard=_TensorBoard(run, start_step)))
        if wandb_project:
            self._try("wandb", lambda: self._boards.update(wandb=_Wandb(wandb_project, run, config)))

    def log(self, step: int, metrics: dict[str, float]) -> None:
        finite = {k: (v if v == v and abs(v) != float("inf") else None) for k, v in metrics.items()}
        self.lines.write({"step": step} | finite)
        for name, board in list(self._boards.items()):
            self._try(name, functools.partial(board.log, step, metrics))

    def close(self) -> None:
        with contextlib.ExitStack() as closing:  # close all, even if one fails on a full disk
            closing.callback(self.lines.close)
            for name, board in list(self._boards.items()):
                self._try(name, board.close)

    def _try(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # a lost connection or a full disk; each library has its own types
            self._boards.pop(name, None)
            log.warning("%s failed (%s) and is turned off; metrics.jsonl is still written", name, error)


class Logs:
    """metrics.jsonl and the trackers, samples.jsonl: the main process has them."""

    def __init__(self, config: TrainConfig, run: Path, progress: Progress, closing: contextlib.ExitStack):
        self.tracker = Tracker(
            run,
            keep_bytes=progress.metrics_bytes,
            start_step=progress.step + 1,
            wandb_project=config.wandb,
            config=dataclasses.asdict(config),
        )
        closing.callback(self.tracker.close)
        self.samples = JsonLines(run / "samples.jsonl", progress.samples_bytes)
        closing.callback(self.samples.close)

    def write(self, done: int, metrics: dict[str, float], samples: list[dict]) -> None:
        self.tracker.log(done, metrics)
        for sample in samples:
            self.samples.write(sample)


class _Board(Protocol):
    def log(self, step: int, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    def __init__(self, run: Path, start_step: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=start_step)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, project: str, run: Path, config: dict):
        import wandb

        file = run / _WANDB_ID  # without the id of its first start, a resumed run would be a new one there
        known = file.read_text().strip() if file.is_file() else ""
        number = known or uuid.uuid4().hex
        write_atomically(file, number + "\n")
        self._run = wandb.init(project=project, name=run.name, id=number, dir=str(run), config=config, resume="allow")

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._run.log(metrics, step=step)

    def close(self) -> None:
        self._run.finish()


def require_wandb(project: str | None) -> None:
    """UserError when logging to Weights & Biases is asked for and the package is missing."""
    if project and importlib.util.find_spec("wandb") is None:
        raise UserError(f"wandb is {project!r}, but the package is not installed; pip install 'softtokens[wandb]'")
