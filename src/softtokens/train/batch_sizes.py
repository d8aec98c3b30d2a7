"""How much of a training step runs at a time: chosen before the run from the available memory, and halved when memory
runs out anyway.

`choose` is pure. Training calls it with the free memory of its device, `softtokens plan` with that of any device.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from softtokens.config.train import TrainConfig
from softtokens.models.size import ModelSize
from softtokens.rollout.decoder import Decoder
from softtokens.rollout.memory import (
    position_bytes,
    row_bytes,
    rows_in,
    thought_bytes,
    vocabulary_bytes,
    with_fewer_slots,
)

T = TypeVar("T")
log = logging.getLogger(__name__)

# Positions per pass. On a CPU, activations should be used again while they are in the caches: one pass over all rows is
# three times slower.
WANTED_POSITIONS = {"cpu": 1 << 10, "cuda": 1 << 14}
# With fewer positions per pass a GPU is limited by reading weights; then activations are recomputed instead.
FEW_POSITIONS = 1 << 12
MOST_VALIDATION_ROWS = 256  # at a time; more are no faster


@dataclasses.dataclass(frozen=True)
class Share:
    """One process's part of a step. prompt_positions: of the longest prompt; emitted: of the longest row after it;
    validated: validation problems."""

    rows: int
    prompts: int
    prompt_positions: int
    emitted: int
    validated: int

    @property
    def positions(self) -> int:
        return self.prompt_positions + self.emitted


@dataclasses.dataclass
class BatchSizes:
    """slots, validation_slots: rollouts that run at a time. positions: of rows in one backward pass, and of prompts in
    one group (see `train.gradient`). recomputes: whether activations are computed again in the backward pass."""

    slots: int
    validation_slots: int
    positions: int
    recomputes: bool

    def sampling(self, name: str, decoder: Decoder, work: Callable[[int], T]) -> T:
        """Call `work` with the number of slots of that name, which falls when memory runs out. UserError if a single
        rollout does not fit."""
        result, slots = with_fewer_slots(getattr(self, name), work, decoder)
        setattr(self, name, slots)
        return result

    def lower_positions(self, positions: int) -> None:
        """To what an update came down to."""
        if positions < self.positions:
            log.warning("out of memory with %d positions in a pass; continuing with %d", self.positions, positions)
            self.positions = positions


def choose(
    config: TrainConfig, size: ModelSize, share: Share, *, kind: str, free: float, shards: int = 1
) -> BatchSizes:
    """How much fits into `free` bytes, with the weights in place and nothing else.

    The update comes first: gradients, Adam's state, what scores over the vocabulary work with, and a pass of
    FEW_POSITIONS. Rollouts take what they need of the rest, and a pass grows into what they leave. kind: cuda or cpu;
    a CPU's `free` is a share of its memory that does not count the optimizer.
    """
    dtype = getattr(torch, config.scale.dtype)
    wanted = config.tokens_per_backward or WANTED_POSITIONS[kind]
    per_row = row_bytes(size, dtype, share.positions, config.max_thought_steps)
    validated = min(share.validated, MOST_VALIDATION_ROWS)
    checkpointing = config.scale.activation_checkpointing
    if kind == "cpu":
        recomputes = checkpointing == "always"
        per_position = position_bytes(size, dtype, checkpointed=recomputes)
        slots, validation_slots = (rows_in(free, per_row, rows) for rows in (share.rows, validated))
        return BatchSizes(slots, validation_slots, _positions(free, per_position, share, wanted), recomputes)

    ways = ways_into_the_vocabulary(config, adapters=size.trained < size.parameters)
    rest = (
        free
        - gradient_bytes(size, shards)
        - moment_bytes(size, shards)
        - vocabulary_bytes(size, kind, wanted, ways=ways)
    )
    rest -= stored_bytes(config, size, share.rows) + share.prompts * size.cache_bytes(share.prompt_positions, dtype)
    rest -= gathered_bytes(size, dtype) if shards > 1 else 0.0
    keeping, recomputing = (position_bytes(size, dtype, checkpointed=checkpointed) for checkpointed in (False, True))
    rollouts = share.rows * per_row
    enough = min(wanted, FEW_POSITIONS, share.rows * share.emitted)
    is_tight = size.block > 0 and _positions(rest - rollouts, keeping, share, wanted) < enough
    recomputes = checkpointing == "always" or (checkpointing == "auto" and is_tight)
    per_position = recomputing if recomputes else keeping
    reserved = min(enough * per_position + _prompt_positions(share, enough) * per_position, max(rest, 0.0))
    slots = rows_in(rest - reserved, per_row, share.rows)
    validation_slots = rows_in(rest - reserved, per_row, validated)
    # recorded decode steps keep their buffers while the update runs
    kept = max(slots, validation_slots) * per_row
    return BatchSizes(slots, validation_slots, _positions(rest - kept, per_position, share, wanted), recomputes)


def measures_apart(config: TrainConfig) -> bool:
    """Whether some steps hold the gradients of both terms at the same time."""
    return config.term_norms_every > 0 or config.clip == "each"


def ways_into_the_vocabulary(config: TrainConfig, *, adapters: bool) -> int:
    """Number of gradients of head or table that are computed at the same time: head and table of the mixture, head
    of the answers; none where adapters are trained."""
    if adapters:
        return 0
    return 3 if config.thought.family.mixes_table and config.thought.table_in_mean == "trained" else 2


def gradient_bytes(size: ModelSize, shards: int = 1) -> float:
    """Bytes of the float32 gradients of one process."""
    return 4.0 * size.trained / shards


def moment_bytes(size: ModelSize, shards: int = 1) -> float:
    """Bytes of Adam's two float32 moments of one process."""
    return 8.0 * size.trained / shards


def gathered_bytes(size: ModelSize, dtype: torch.dtype) -> float:
    """Bytes of sharded weights that are gathered while they compute, and of their gradients until these are
    reduce-scattered in float32."""
    return 2.0 * dtype.itemsize * (size.root + 2 * size.block) + 4.0 * size.root


def stored_bytes(config: TrainConfig, size: ModelSize, rows: int) -> float:
    """Bytes of the stored thoughts of this many rollouts, which replay feeds again; tokens need none."""
    vectors = 0 if config.thought.mode == "hard" else 2 if config.thought.noise == "hidden" else 1
    return vectors * float(rows * thought_bytes(size, config.max_thought_steps))


def _positions(free: float, per_position: float, share: Share, wanted: int) -> int:
    """Positions in a pass over rows, in addition to the activations of a group of prompts. At least 1, because there
    is nothing smaller to try."""
    fitting = int(free // per_position)
    prompts = share.prompts * share.prompt_positions
    return max(1, min(wanted, max(fitting - prompts, fitting // 2)))


def _prompt_positions(share: Share, positions: int) -> int:
    """Positions of the prompts held at a time: all of them, or a group of at most this many."""
    return min(share.prompts * share.prompt_positions, max(positions, share.prompt_positions))
