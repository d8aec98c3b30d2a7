"""Save a run so that it can be killed at any moment, and resume it as if it had not been.

    checkpoints/step-000050/    a Hugging Face folder, plus optimizer.safetensors and trainer.json
    checkpoints/last, best      links to two of them

A checkpoint is written beside its place, flushed to disk and then renamed, so a folder `step-*` is whole. Randomness
and data order are functions of the seed and the step (`ops.random`, `train.data`), so there is no further state.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import warnings
from pathlib import Path

import torch

from softtokens.models.hf import HFPolicy
from softtokens.types import UserError

_STATE = "trainer.json"
_OPTIMIZER = "optimizer.safetensors"
_UNFINISHED = ".saving"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written (no space, no permission). Earlier ones are whole."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a run is. step: updates done. *_bytes: length of the run's files at that moment."""

    step: int = 0
    best_step: int | None = None
    best_accuracy: float = -1.0
    metrics_bytes: int = 0
    samples_bytes: int = 0


def save_checkpoint(run: Path, policy: HFPolicy, optimizer: torch.optim.Optimizer, progress: Progress) -> Path:
    """Write step-N, point `last` (and `best`, if this is it) at it, and drop the ones that are neither."""
    root = run / "checkpoints"
    final = root / _name(progress.step)
    unfinished = root / f"{_UNFINISHED}-{final.name}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        policy.save(unfinished)
        _save_optimizer(optimizer, unfinished / _OPTIMIZER)
        sizes = {p.name: p.stat().st_size for p in unfinished.iterdir()}
        state = dataclasses.asdict(progress) | {"files": sizes}
        (unfinished / _STATE).write_text(json.dumps(state, indent=1) + "\n")
        _flush(unfinished)
        if final.exists():  # written by a run that was killed before it could use it
            shutil.rmtree(final)
        unfinished.rename(final)
        _flush(root)
        tidy(run, progress)
    except Exception as error:  # safetensors raises its own kind for a full disk
        shutil.rmtree(unfinished, ignore_errors=True)
        raise CheckpointError(
            f"checkpoint {final} could not be saved: {error}. Earlier checkpoints are untouched; make room and resume."
        ) from error
    return final


def tidy(run: Path, progress: Progress) -> None:
    """Point `last` and `best` at their checkpoints and drop the ones not needed. A resumed run does it again: the kill
    may have come between a save and this."""
    root = run / "checkpoints"
    _point(root / "last", _name(progress.step))
    if progress.best_step is not None and (root / _name(progress.best_step)).is_dir():
        _point(root / "best", _name(progress.best_step))
    _retain(root, progress)


def newest_checkpoint(run: Path) -> tuple[Path, Progress] | None:
    """The latest whole checkpoint of a run, None if there is none yet. Damaged ones are named in a warning and passed
    over; UserError when all are damaged, so that nothing is overwritten."""
    folders = sorted((run / "checkpoints").glob("step-*"), reverse=True)
    for folder in folders:
        try:
            state = json.loads((folder / _STATE).read_text())
            sizes = state.pop("files")
            bad = [n for n, size in sizes.items() if not (folder / n).is_file() or (folder / n).stat().st_size != size]
            if bad:
                raise ValueError(f"{', '.join(bad)} is missing or has the wrong size")
            return folder, Progress(**state)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            warnings.warn(f"checkpoint {folder} is damaged ({error}); using the one before it", stacklevel=2)
    if folders:
        raise UserError(
            f"all checkpoints in {run / 'checkpoints'} are damaged; restore one, or give a new output folder"
        )
    return None


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    from safetensors.torch import load_file

    state = optimizer.state_dict()
    state["state"] = {}
    for name, tensor in load_file(folder / _OPTIMIZER).items():
        index, key = name.split(".", 1)
        state["state"].setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(state)


def _save_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {
        f"{index}.{key}": value.detach().cpu().contiguous()
        for index, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
    }
    save_file(tensors, path)


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _point(link: Path, target: str) -> None:
    """Make `link` a symbolic link to a sibling, replacing it in one move."""
    fresh = link.with_name(f".{link.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target, target_is_directory=True)
    os.replace(fresh, link)


def _retain(root: Path, progress: Progress) -> None:
    """Keep the last two (should the newest turn out damaged), the best, and the one that the run is at."""
    kept = [*sorted(p.name for p in root.glob("step-*"))[-2:], _name(progress.step)]
    if progress.best_step is not None:
        kept.append(_name(progress.best_step))
    for folder in root.glob("step-*"):
        if folder.name not in kept:
            shutil.rmtree(folder)
    for folder in root.glob(f"{_UNFINISHED}-*"):
        shutil.rmtree(folder)


def _flush(folder: Path) -> None:
    """Push a folder's files, and the folder itself, to disk."""
    for path in [*folder.iterdir(), folder]:
        if path.is_symlink() or (path.is_dir() and path != folder):
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
