"""Memory of one process of a training run, part by part, in the phases of a step.

Rollouts are taken to be as long as they may get. As many of them run at a time, and as many positions go through a
backward pass, as training would choose.
"""

from __future__ import annotations

import dataclasses

import torch

from softtokens.models.size import ModelSize
from softtokens.plan.devices import Device
from softtokens.planconfig import PlanConfig
from softtokens.rollout.memory import (
    BYTES_PER_LOGIT,
    USABLE,
    position_bytes,
    row_bytes,
    rows_in,
    tokens_in,
    vocabulary_bytes,
)
from softtokens.train.gradient import TOKENS_PER_BACKWARD
from softtokens.train.memory import MOST_VALIDATION_ROWS, measures_apart, ways_into_the_vocabulary

# glibc keeps freed blocks below this for itself (its mmap threshold goes no higher), and what comes next leaves holes
# in them, from part to part of an update: about this many times what was freed, measured, less the gradients that fill
# them.
_HEAP_BLOCK, _HOLES = 32 * 2**20, 1.2
PHASES = ("rollout", "update", "optimizer", "checkpoint")
ALWAYS = frozenset(PHASES)
FORCED_TOKENS = 12  # "The final answer is: \boxed{", as most tokenizers cut it


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    size: float  # bytes
    phases: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Rows:
    """What one process has of a step."""

    count: int
    prompts: int
    emitted: int  # longest row, without its prompt

    @staticmethod
    def of(config: PlanConfig) -> Rows:
        count = -(-config.problems_per_step * config.group_size // config.processes)
        emitted = config.max_thought_steps + FORCED_TOKENS + config.max_answer_tokens
        return Rows(count, -(-config.problems_per_step // config.processes), emitted)


@dataclasses.dataclass(frozen=True)
class Footprint:
    """parts: every one that is not empty. rollouts: as many run at a time; positions: as many go through a backward
    pass together."""

    parts: list[Part]
    rollouts: int
    positions: int

    @property
    def phases(self) -> dict[str, float]:
        """Bytes by phase."""
        return {phase: sum(part.size for part in self.parts if phase in part.phases) for phase in PHASES}

    @property
    def peak(self) -> float:
        return max(self.phases.values())


def footprint(config: PlanConfig, size: ModelSize, device: Device, runtime: float) -> Footprint:
    """runtime: what the process takes before it holds anything, bytes."""
    rows, on_gpu = Rows.of(config), device.kind == "cuda"
    dtype = getattr(torch, config.scale.dtype)
    width, half = dtype.itemsize, config.scale.dtype == "bfloat16"
    shards = shards_of(config)
    trained, matrix = size.trained / shards, 4.0 * size.vocab * size.dim
    mixes, apart = config.thought.mode != "hard", measures_apart(config)
    # recorded decode steps keep their buffers for the next batch
    rollout = ALWAYS if on_gpu and config.decoding != "plain" else frozenset({"rollout"})
    held = frozenset({"update", "optimizer"})
    update = frozenset({"update"})
    full_precision = 0 if on_gpu or not half else matrix * (1 if size.tied else 2)
    thoughts = 4.0 * size.dim * config.max_thought_steps if mixes else 0.0
    model = size.parameters * (width if shards == 1 else 4 / shards)
    masters, copy = (4 * trained if half and shards == 1 else 0), (size.parameters * width if shards > 1 else 0)
    wanted = config.tokens_per_backward or TOKENS_PER_BACKWARD[device.kind]
    ways = ways_into_the_vocabulary(config, adapters=size.trained < size.parameters)
    vocabulary = vocabulary_bytes(size, device.kind, wanted, ways=ways)
    checkpointed = config.scale.activation_checkpointing
    kept = size.activation_bytes(dtype, checkpointed=checkpointed)
    of_one = position_bytes(size, dtype, checkpointed=checkpointed)

    # what training chooses, see `train.loop._fitting`
    length = config.prompt_tokens + rows.emitted
    of_a_row = row_bytes(size, dtype, length, config.max_thought_steps)
    free = 0.25 * device.memory  # of a CPU
    if on_gpu:
        state = 4 * trained * (4 if apart else 3)
        free = USABLE * (device.memory - runtime - model - masters - copy) - state
    slots = rows_in(free, of_a_row, rows.count)
    positions = tokens_in(free - slots * of_a_row - vocabulary if on_gpu else free, of_one, wanted)
    validated = -(-config.validation_problems // config.processes) if config.validate_every else 0
    fit = rows_in(free, of_a_row, MOST_VALIDATION_ROWS)
    decoded = max(slots, min(validated, fit))
    cache = decoded * size.cache_bytes(length, dtype)
    at_a_time = min(rows.count, max(1, positions // rows.emitted)) * rows.emitted
    parts = [
        ("libraries", runtime, ALWAYS),
        ("weights", model, ALWAYS),
        ("float32 masters", masters, ALWAYS),
        ("copy for rollouts", copy, ALWAYS),
        ("optimizer", 8 * trained, ALWAYS),
        ("gradients", 4 * trained, held),
        ("gradients of one term apart", 4 * trained if apart else 0, update),
        ("KV cache", cache, rollout),
        ("logits of a decode step", decoded * BYTES_PER_LOGIT * size.vocab, rollout),
        ("vocabulary in float32", full_precision, frozenset({"rollout", "update"})),
        ("thoughts on the tape", decoded * thoughts, rollout),
        ("stored thoughts", rows.count * thoughts, frozenset({"rollout"}) | held),
        ("activations", (at_a_time + rows.prompts * config.prompt_tokens) * kept, update),
        ("holes in the heap", 0 if on_gpu or shards > 1 else _holes(size, config, at_a_time), update),
        ("thoughts in work", at_a_time * (of_one - kept), update),
        ("vocabulary in work", vocabulary, update),
        ("gathered blocks", _gathered(size, width) if shards > 1 else 0, update),
        ("optimizer in work", 4 * trained if on_gpu else 8.0 * size.largest / shards, frozenset({"optimizer"})),
        ("optimizer, being written", 0 if on_gpu else 16 * trained, frozenset({"checkpoint"})),
        ("weights, gathered", 4 * size.parameters if not on_gpu and (shards > 1) else 0, frozenset({"checkpoint"})),
    ]
    return Footprint([Part(*part) for part in parts if part[1]], slots, at_a_time)


def _holes(size: ModelSize, config: PlanConfig, positions: int) -> float:
    """Activations that were freed in the backward pass and cannot be used by what comes next. (Of sharded weights large
    blocks are mapped apart.)"""
    width, layers = getattr(torch, config.scale.dtype).itemsize, size.layers
    if config.scale.activation_checkpointing:
        layers = 1
    kinds = ((11, size.dim), (4, size.inner))  # as in ModelSize.activation_bytes
    blocks = [(count, positions * numbers * width) for count, numbers in kinds]
    freed = sum(layers * count * block for count, block in blocks if block < _HEAP_BLOCK)
    filled = 4 * size.trained * (2 if measures_apart(config) else 1)
    return max(0.0, _HOLES * freed - filled)


def shards_of(config: PlanConfig) -> int:
    """Over how many processes weights, gradients and optimizer are split."""
    sharded = {"fsdp": config.processes, "hsdp": min(config.processes, config.per_machine)}
    return sharded.get(config.scale.parallel, 1)


def _gathered(size: ModelSize, width: int) -> float:
    """What is whole while it computes, and its gradients until they are dealt out in float32."""
    return 2.0 * width * (size.root + 2 * size.block) + 4.0 * size.root
