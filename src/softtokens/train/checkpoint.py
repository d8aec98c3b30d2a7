"""Save a run so that it can be killed at any moment, and resume it as if it had not been.

    checkpoints/step-000050/              a Hugging Face folder (or a peft folder of adapters), and
    checkpoints/step-000050/optimizer/    the optimizer's state, a safetensors file per process that held a part
    checkpoints/step-000050/trainer.json  the run's progress
    checkpoints/last, best                links to two of them

A checkpoint is written under a temporary name, flushed and then renamed, so a folder `step-*` is always complete.
Randomness and data order are functions of the seed and the step (`ops.random`, `train.data`), so there is no further
state. A run may be resumed by another number of processes. On several machines the folder must be on a shared disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from softtokens.files import expanded, flush_to_disk
from softtokens.models.checkpoint_paths import FOLDER, STATE, checkpoint_name, checkpoints, named_checkpoint, step_of
from softtokens.train.weights import Weights
from softtokens.types import UserError, first_line

_OPTIMIZER = "optimizer"
_UNFINISHED = ".saving"
_MOMENTS = ("exp_avg", "exp_avg_sq")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written (no space, no permission). Earlier ones are whole."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of a run. step: updates done. validation: SHA-256 of the problems behind best_accuracy.
    skipped_in_row: how many of the last updates were skipped for values that are not finite. *_bytes: length of the
    run's files at that moment."""

    step: int = 0
    best_step: int | None = None
    best_accuracy: float = -1.0
    validation: str = ""
    skipped_in_row: int = 0
    metrics_bytes: int = 0
    samples_bytes: int = 0


def save_checkpoint(run: Path, weights: Weights, optimizer: torch.optim.Optimizer, progress: Progress) -> Path:
    """Write step-N, point `last` (and `best`, if this is it) at it, and drop the ones that are neither. All processes
    take part."""
    root = run / FOLDER
    final = root / checkpoint_name(progress.step)
    unfinished = root / f"{_UNFINISHED}-{final.name}"
    world = weights.world
    try:
        world.from_main(lambda: _start(unfinished))
        complete = weights.complete()
        _save_optimizer(weights, optimizer, unfinished / _OPTIMIZER)
        world.from_main(lambda: _finish(run, unfinished, final, weights, complete, progress))
    except (Exception, CheckpointException) as error:  # on a full disk, safetensors and torch raise types of their own
        if world.is_main:
            shutil.rmtree(unfinished, ignore_errors=True)
        raise CheckpointError(
            f"checkpoint {final} could not be saved: {_reason(error)}. Earlier checkpoints are untouched; make room "
            "and resume."
        ) from error
    return final


def _start(unfinished: Path) -> None:
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / _OPTIMIZER).mkdir(parents=True)


def _finish(
    run: Path, unfinished: Path, final: Path, weights: Weights, complete: dict[str, Tensor] | None, progress: Progress
) -> None:
    weights.policy.save(unfinished, complete)
    files = [path for path in unfinished.rglob("*") if path.is_file()]
    state = dataclasses.asdict(progress) | {
        "files": {str(path.relative_to(unfinished)): path.stat().st_size for path in files}
    }
    (unfinished / STATE).write_text(json.dumps(state, indent=1) + "\n")
    for path in [*unfinished.rglob("*"), unfinished]:
        flush_to_disk(path)
    if final.exists():  # left by a run that was killed before it recorded it
        shutil.rmtree(final)
    unfinished.rename(final)
    flush_to_disk(final.parent)
    tidy(run, progress)


def tidy(run: Path, progress: Progress) -> None:
    """Point `last` and `best` at their checkpoints and drop the ones not needed. A resumed run does it again: the kill
    may have come between a save and this."""
    root = run / FOLDER
    _point(root / "last", checkpoint_name(progress.step))
    if progress.best_step is not None and (root / checkpoint_name(progress.best_step)).is_dir():
        _point(root / "best", checkpoint_name(progress.best_step))
    _retain(run, progress)


def checkpoint_to_start_at(name: str) -> tuple[Path, Progress]:
    """The checkpoint RUN@STEP, RUN@last, RUN@best, RUN (its last one) or that folder, as the start of another run: its
    counts of what was logged and validated begin anew. UserError with those that there are."""
    path = expanded(name)
    folder = named_checkpoint(path) or named_checkpoint(f"{path}@last")
    if folder is None:
        run = Path(path if Path(path).exists() else path.rpartition("@")[0] or path)
        if not run.is_dir():
            raise UserError(f"from is {name!r}, but there is no run {str(run)!r}; give RUN@STEP")
        there = ", ".join(str(step_of(checkpoint)) for checkpoint in checkpoints(run)) or "none"
        raise UserError(f"from is {name!r}, which is not a checkpoint; give RUN@STEP, steps in {str(run)!r}: {there}")
    try:
        progress = _verified(folder)
    except _DAMAGE as error:
        raise UserError(f"from is {name!r}, a checkpoint that is damaged ({error}); give another one") from error
    return folder.resolve(), Progress(step=progress.step)


def newest_checkpoint(run: Path) -> tuple[Path, Progress] | None:
    """The latest whole checkpoint of a run, None if there is none yet. Damaged ones are named in a warning and passed
    over; UserError when all are damaged, so that nothing is overwritten."""
    folders = checkpoints(run)
    for folder in reversed(folders):
        try:
            return folder, _verified(folder)
        except _DAMAGE as error:
            warnings.warn(f"checkpoint {folder} is damaged ({error}); using the one before it", stacklevel=2)
    if folders:
        raise UserError(f"all checkpoints in {run / FOLDER} are damaged; restore one, or give a new output folder")
    if any((run / FOLDER / link).is_dir() for link in ("last", "best")):
        raise UserError(
            f"{run / FOLDER} has last or best, but not the folder step-N that such a link points to; copy the "
            "whole run, or rename last to step-N, where N is the step in its trainer.json, with six digits"
        )
    return None


_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError)


def _verified(folder: Path) -> Progress:
    """The recorded progress. Raises one of _DAMAGE if a file is missing or does not have its original size."""
    state = json.loads((folder / STATE).read_text())
    sizes = state.pop("files")
    bad = [n for n, size in sizes.items() if not (folder / n).is_file() or (folder / n).stat().st_size != size]
    if bad:
        raise ValueError(f"{', '.join(bad)} is missing or has the wrong size")
    return Progress(**state)


def load_optimizer(folder: Path, weights: Weights, optimizer: torch.optim.Optimizer) -> None:
    """Load the optimizer's state into the shards of this process, whatever the number of processes that saved it.
    Before the first update there is none."""
    if not any((folder / _OPTIMIZER).iterdir()):
        return
    for parameter in weights.parameters.values():
        moments = {name: torch.zeros_like(parameter) for name in _MOMENTS}
        optimizer.state[parameter] = {"step": torch.zeros(()), **moments}
    state = _flat(weights, optimizer)
    reader = dcp.HuggingFaceStorageReader(str(folder / _OPTIMIZER))
    try:
        with _no_warning_of_one_process():
            dcp.load(state, storage_reader=reader, no_dist=weights.world.size == 1)
    except CheckpointException as error:  # a BaseException
        raise CheckpointError(
            f"the optimizer's state in {folder / _OPTIMIZER} does not fit these weights: {first_line(_cause(error))}"
        ) from error
    for name, parameter in weights.parameters.items():
        optimizer.state[parameter] = {key: state[f"{name}.{key}"] for key in ("step", *_MOMENTS)}


def _save_optimizer(weights: Weights, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Every process writes its shards. Before the first update there is nothing to write."""
    if not optimizer.state:
        return
    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _no_warning_of_one_process():
        dcp.save(_flat(weights, optimizer), storage_writer=writer, no_dist=weights.world.size == 1)


def _flat(weights: Weights, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by name of parameter."""
    return {
        f"{name}.{key}": optimizer.state[parameter][key].detach()
        for name, parameter in weights.parameters.items()
        for key in ("step", *_MOMENTS)
    }


@contextlib.contextmanager
def _no_warning_of_one_process() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _reason(error: BaseException) -> str:
    """The first reason that a distributed save reports, without tracebacks."""
    return str(_cause(error))


def _cause(error: BaseException) -> BaseException:
    if isinstance(error, CheckpointException) and error.failures:
        return next(iter(error.failures.values()))[0]
    return error


def _point(link: Path, target: str) -> None:
    """Make `link` a symbolic link to a sibling, replacing it in one move. Where a copy of the run has a folder in its
    place, that is a copy of a sibling."""
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    fresh = link.with_name(f".{link.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target, target_is_directory=True)
    os.replace(fresh, link)


def _retain(run: Path, progress: Progress) -> None:
    """Keep the last two (should the newest turn out damaged), the best, and the one that the run is at."""
    folders = checkpoints(run)
    kept = [*(folder.name for folder in folders[-2:]), checkpoint_name(progress.step)]
    if progress.best_step is not None:
        kept.append(checkpoint_name(progress.best_step))
    for folder in folders:
        if folder.name not in kept:
            shutil.rmtree(folder)
    for folder in (run / FOLDER).glob(f"{_UNFINISHED}-*"):
        shutil.rmtree(folder)
