"""Where a run starts: from scratch, at its own last checkpoint, or at a checkpoint of another run."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from softtokens.config.train import TrainConfig
from softtokens.train import run_folder
from softtokens.train.checkpoint import Progress, checkpoint_to_start_at, newest_checkpoint
from softtokens.types import UserError

log = logging.getLogger(__name__)


def find_start(config: TrainConfig, lock: run_folder.RunLock) -> tuple[Path, TrainConfig, tuple[Path, Progress] | None]:
    """The run's folder, its configuration including the checkpoint it started from, and the checkpoint to resume
    from."""
    config = run_folder.with_recorded_start(config)
    run = run_folder.check_output(config)
    lock.take()
    checkpoint = newest_checkpoint(run) if config.resume else None
    if checkpoint is not None:
        changed = run_folder.changed_since(run, config)
        if "steps" in changed and config.schedule != "constant":
            log.warning(
                "steps was raised: from here the learning rate follows the %s schedule of %d steps",
                config.schedule,
                config.steps,
            )
    if checkpoint is None and config.start is not None:
        folder, progress = checkpoint = checkpoint_to_start_at(config.start)
        if progress.step >= config.steps:
            raise UserError(
                f"from is {config.start!r}, which has {progress.step} updates behind it; steps is {config.steps} and "
                "includes them, so raise it"
            )
        source = folder.parents[1]
        run_folder.require_same_model(source, config)
        if not config.resume:  # record the step: `last` of a running run changes
            config = dataclasses.replace(config, start=f"{source}@{progress.step}")
    if config.resume or config.start is not None:
        log.info("resuming from %s", checkpoint[0] if checkpoint else "the start: there is no checkpoint to resume")
    return run, config, checkpoint
