"""A step whose numbers were not finite, kept so that it can be run again: RUN/repro/step-N.safetensors.

The model as it was is saved next to it, in repro/step-N/; consecutive skipped steps share one, for it did not change.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from torch import Tensor

from softtokens.files import expanded
from softtokens.models.hf import HFPolicy
from softtokens.rollout.record import Rollout
from softtokens.train.step import Step
from softtokens.train.trainee import Trainee
from softtokens.types import UserError

_FOLDER = "repro"


@dataclasses.dataclass(frozen=True)
class SkippedStep:
    """One process's rows of a step. rollout, advantages: None where the model could not even be sampled."""

    step: int
    why: str
    config: dict
    model: Path
    total_rows: int
    rollout: Rollout | None
    advantages: Tensor | None

    def require_sizes_of(self, policy: HFPolicy, name: str) -> None:
        """UserError when the rollouts cannot have come from a model of this table."""
        assert self.rollout is not None, "a case without rollouts has nothing to feed"
        rows, dim = policy.vocabulary.table.shape
        largest, thoughts = int(self.rollout.ids.max()), self.rollout.stored.get("inputs")
        fed = dim if thoughts is None else thoughts.shape[-1]
        if fed != dim or largest >= rows:
            raise UserError(
                f"model is {name!r}, with {rows:,} tokens of width {dim:,}; the case has tokens up to {largest:,} and "
                f"thoughts of width {fed:,}, so it belongs to another model. Drop --model to use the "
                "model saved with the case."
            )


def save_skipped_step(
    run: Path, t: Trainee, done: int, step: Step, *, config: dict, model_of_step: int, keep: int
) -> None:
    """Write step `done`, unless `keep` are there already. model_of_step: the first of these
    consecutive skipped steps. All processes take part."""
    folder, world = run / _FOLDER, t.world
    enough = world.from_main(lambda: len(list(folder.glob("step-*.safetensors"))) >= keep * world.size)
    if enough:
        return
    model = folder / _name(model_of_step)
    if not world.from_main(model.is_dir):
        complete = t.weights.complete()
        world.from_main(lambda: t.weights.policy.save(model, complete))
    about = {
        "step": done,
        "why": step.broken,
        "config": config,
        "model": model.name,
        "total_rows": step.batch.total_rows if step.batch else 0,
    }
    suffix = "" if world.size == 1 else f".process-{world.rank}"
    file = folder / f"{_name(done)}{suffix}.safetensors"
    if step.batch is None:
        from safetensors.torch import save_file

        save_file({"nothing": torch.zeros(0)}, file, {"case": json.dumps(about)})
    else:
        step.batch.rollout.save(file, {"advantages": step.batch.advantages}, {"case": json.dumps(about)})


def load_skipped_step(file: Path) -> SkippedStep:
    """UserError when the file is not one of ours, or its model is gone."""
    from safetensors import SafetensorError, safe_open

    file = Path(expanded(file))
    try:
        with safe_open(file, framework="pt") as opened:
            about = json.loads((opened.metadata() or {}).get("case", "null"))
            if about is None:
                raise ValueError("it holds no skipped step")
            sampled = "advantages" in opened.keys()  # noqa: SIM118 (not a mapping)
            advantages = opened.get_tensor("advantages") if sampled else None
        skipped = SkippedStep(
            step=about["step"],
            why=about["why"],
            config=about["config"],
            model=file.parent / about["model"],
            total_rows=about["total_rows"],
            rollout=Rollout.load(file) if sampled else None,
            advantages=advantages,
        )
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"case is {str(file)!r}, which cannot be read ({error}); give a file RUN/repro/step-N.safetensors"
        ) from error
    if not skipped.model.is_dir():
        raise UserError(f"case {str(file)!r} needs the model saved with it, {str(skipped.model)!r}, which is missing")
    return skipped


def _name(step: int) -> str:
    return f"step-{step:06d}"
