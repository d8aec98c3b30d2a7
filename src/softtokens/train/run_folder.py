"""The run directory: config.json, metrics.jsonl, samples.jsonl, results.json, checkpoints/."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from softtokens.config.fields import flat, free_settings
from softtokens.config.train import TrainConfig
from softtokens.files import expanded, write_json
from softtokens.models.checkpoint_paths import FOLDER, checkpoint_name
from softtokens.types import UserError

if TYPE_CHECKING:
    import filelock

_CONFIG = "config.json"
_FREE = free_settings(TrainConfig)
_LOCK_FILES = (".lock", ".trainer")


class RunLock:
    """Keeps a second trainer out of a run's folder. The lock ends with the process, however it ends."""

    def __init__(self, run: Path):
        self._run = run
        self._lock: filelock.BaseFileLock | None = None

    def take(self) -> None:
        """If the folder is there and the lock not taken yet. UserError that says who has it."""
        import filelock

        if self._lock is not None or not self._run.is_dir():
            return
        file, holder = (self._run / name for name in _LOCK_FILES)
        lock = filelock.FileLock(file)
        try:
            lock.acquire(timeout=0)
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        except filelock.Timeout as error:
            who = holder.read_text()[:200].strip() if holder.is_file() else "another process"
            raise UserError(
                f"output is {str(self._run)!r}, where {who} is training; wait for it, end it, or give another folder"
            ) from error
        except OSError as error:
            raise UserError(f"output is {str(self._run)!r}, which cannot be written: {error.strerror}") from error
        self._lock = lock

    def close(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):  # the disk may be gone; the lock is released when the process ends
                (self._run / _LOCK_FILES[1]).unlink(missing_ok=True)
                self._lock.release()


def folder_of(config: TrainConfig) -> Path:
    return Path(expanded(config.output))


def check_output(config: TrainConfig) -> Path:
    """The run's folder, if the run may be written there: it is new or empty, or holds the run to be resumed."""
    run = folder_of(config)
    file = run / _CONFIG
    if run.exists() and not run.is_dir():
        raise UserError(f"output is {config.output!r}, which is a file; give a folder")
    if file.is_file():
        if not config.resume:
            raise UserError(
                f"output is {config.output!r}, which already holds a run; give a new folder, or add --resume to "
                "continue that run"
            )
        _require_resumable(recorded(run), resolved(config), config.output)
    elif run.exists() and any(path.name not in _LOCK_FILES for path in run.iterdir()):
        raise UserError(f"output is {config.output!r}, a folder that holds other files; give a new or empty folder")
    return run


def open_run(config: TrainConfig) -> Path:
    """Create the run's folder and write the resolved configuration, or that of a resumed run again. From here on it is
    a run."""
    run = check_output(config)
    if (run / _CONFIG).is_file() and not changed_since(run, config):
        return run
    try:
        write_json(run / _CONFIG, resolved(config), indent=1)
    except OSError as error:
        raise UserError(f"output is {config.output!r}, which cannot be written: {error.strerror}") from error
    return run


_MODEL = ("model", "scale.lora_rank", "scale.lora_alpha", "scale.lora_targets")


def require_same_model(source: Path, config: TrainConfig) -> None:
    """UserError unless a run that begins at a checkpoint of `source` names its model and its adapters."""
    if not (source / _CONFIG).is_file():
        return
    changed = {name: values for name, values in changes(recorded(source), resolved(config)).items() if name in _MODEL}
    if changed:
        listed = "; ".join(
            f"{name} is {now!r}, where {str(source)!r} has {was!r}" for name, (was, now) in changed.items()
        )
        raise UserError(f"from names a checkpoint of another model or with other adapters: {listed}; give the same")


def with_recorded_start(config: TrainConfig) -> TrainConfig:
    """The configuration with the checkpoint that a resumed run began at: --from need not be given again, and the last
    checkpoint of a run that went on is another one by now."""
    run = folder_of(config)
    start = recorded(run).get("start") if config.resume and (run / _CONFIG).is_file() else None
    if start is None or (config.start is not None and not _is_start(config.start, start)):
        return config
    return dataclasses.replace(config, start=start)


def _is_start(given: str, start: str) -> bool:
    """Whether a name that was given may stand for the recorded RUN@STEP."""
    run, _, step = start.rpartition("@")
    path, _, which = expanded(given).rpartition("@")
    place = Path(path if which in ("last", "best", step) else expanded(given)).resolve()
    return place in (Path(run), Path(run, FOLDER, checkpoint_name(int(step))))


def recorded(run: Path) -> dict:
    """The configuration that a run's folder holds. UserError where it is damaged."""
    file = run / _CONFIG
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); the run cannot be resumed, give a new output folder") from error


def resolved(config: TrainConfig) -> dict:
    """The configuration as JSON data."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _require_resumable(old: dict, new: dict, where: str) -> None:
    """UserError unless the settings that differ are FREE, or more steps."""
    changed = changes(old, new)
    fixed = {key: values for key, values in changed.items() if key not in _FREE}
    if isinstance(fixed.get("steps", (None,))[0], int):
        before, now = fixed.pop("steps")
        if now < before:
            raise UserError(
                f"{where!r} holds a run of {before} steps, and steps is {now}; a resumed run may only raise it"
            )
    if fixed:
        listed = "; ".join(f"{key} was {before}, is {now}" for key, (before, now) in fixed.items())
        raise UserError(
            f"{where!r} holds a run with another configuration ({listed}); resume with the same one, give a new output "
            f"folder, or begin a new run from a checkpoint of this one with --from {where}@last"
        )


def changed_since(run: Path, config: TrainConfig) -> dict[str, tuple]:
    """Settings in which a resumed run differs from what its folder records, as they were and as they are."""
    if not (run / _CONFIG).is_file():
        return {}
    changed = changes(recorded(run), resolved(config))
    return {name: values for name, values in changed.items() if name not in ("output", "resume")}


def changes(old: dict, new: dict) -> dict[str, tuple]:
    """Settings that differ, by dotted names, as they were and as they are."""
    old, new = flat(old), flat(new)
    keys = sorted(old.keys() | new.keys())
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}
