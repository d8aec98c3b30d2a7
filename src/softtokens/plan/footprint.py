"""Memory of one process of a training run, part by part, in the phases of a step.

Rollouts are taken to be as long as they may get. As many of them run at a time, and as many positions go through a
backward pass, as training would choose.
"""

from __future__ import annotations

import dataclasses

import torch

from softtokens.config.plan import PlanConfig
from softtokens.models.size import ModelSize
from softtokens.plan.devices import Device
from softtokens.rollout.memory import (
    USABLE,
    logit_bytes,
    position_bytes,
    vocabulary_bytes,
)
from softtokens.train.batch_sizes import (
    BatchSizes,
    Share,
    choose,
    gathered_bytes,
    gradient_bytes,
    measures_apart,
    moment_bytes,
    stored_bytes,
    ways_into_the_vocabulary,
)

# glibc keeps freed blocks below this for itself (its mmap threshold goes no higher), and what comes next leaves holes
# in them, from part to part of an update: about this many times what was freed, measured, less the gradients that fill
# them.
_HEAP_BLOCK, _HOLES = 32 * 2**20, 1.2
PHASES = ("rollout", "update", "optimizer", "checkpoint")
ALWAYS = frozenset(PHASES)
FORCED_TOKENS = 12  # length of the paper's forced text with most tokenizers


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    size: float  # bytes
    phases: frozenset[str]


def share_of(config: PlanConfig) -> Share:
    """One process's part of a step."""
    rows = -(-config.problems_per_step * config.group_size // config.processes)
    return Share(
        rows=rows,
        prompts=-(-config.problems_per_step // config.processes),
        prompt_positions=config.prompt_tokens,
        emitted=config.max_thought_steps + FORCED_TOKENS + config.max_answer_tokens,
        validated=-(-config.validation_problems // config.processes) if config.validate_every else 0,
    )


@dataclasses.dataclass(frozen=True)
class Footprint:
    """parts: every one that is not empty. batch_sizes: what training would choose; positions: what a backward pass then
    holds, in whole rows."""

    parts: list[Part]
    batch_sizes: BatchSizes
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
    share, on_gpu = share_of(config), device.kind == "cuda"
    dtype = getattr(torch, config.scale.dtype)
    width, half = dtype.itemsize, config.scale.dtype == "bfloat16"
    shards = shards_of(config)
    trained, matrix = size.trained / shards, 4.0 * size.vocab * size.dim
    apart = measures_apart(config)
    # recorded decode steps keep their buffers for the next batch
    rollout = ALWAYS if on_gpu and config.decoding != "plain" else frozenset({"rollout"})
    held = frozenset({"update", "optimizer"})
    update = frozenset({"update"})
    full_precision = 0 if on_gpu or not half else matrix * (1 if size.tied else 2)
    model = size.parameters * (width if shards == 1 else 4 / shards)
    masters, copy = (4 * trained if half and shards == 1 else 0), (size.parameters * width if shards > 1 else 0)
    free = USABLE * (device.memory - runtime - model - masters - copy) if on_gpu else 0.25 * device.memory
    sizes = choose(config, size, share, kind=device.kind, free=free, shards=shards)
    ways = ways_into_the_vocabulary(config, adapters=size.trained < size.parameters)
    vocabulary = vocabulary_bytes(size, device.kind, sizes.positions, ways=ways)
    kept = size.activation_bytes(dtype, checkpointed=sizes.recomputes)
    of_one = position_bytes(size, dtype, checkpointed=sizes.recomputes)
    decoded = max(sizes.slots, sizes.validation_slots)
    cache = decoded * size.cache_bytes(share.positions, dtype)
    at_a_time = min(share.rows, max(1, sizes.positions // share.emitted)) * share.emitted
    prompts = min(share.prompts, max(1, sizes.positions // share.prompt_positions)) * share.prompt_positions
    parts = [
        ("libraries", runtime, ALWAYS),
        ("weights", model, ALWAYS),
        ("float32 masters", masters, ALWAYS),
        ("copy for rollouts", copy, ALWAYS),
        ("optimizer", moment_bytes(size, shards), ALWAYS),
        ("gradients", gradient_bytes(size, shards), held),
        ("gradients of one term apart", gradient_bytes(size, shards) if apart and not on_gpu else 0, update),
        ("KV cache", cache, rollout),
        ("logits of a decode step", decoded * logit_bytes(size), rollout),
        ("vocabulary in float32", full_precision, frozenset({"rollout", "update"})),
        ("thoughts on the tape", stored_bytes(config, size, decoded), rollout),
        ("stored thoughts", stored_bytes(config, size, share.rows), frozenset({"rollout"}) | held),
        ("activations", (at_a_time + prompts) * kept, update),
        (
            "holes in the heap",
            0 if on_gpu or shards > 1 else _holes(size, config, at_a_time, recomputes=sizes.recomputes),
            update,
        ),
        ("thoughts in work", at_a_time * (of_one - kept), update),
        ("vocabulary in work", vocabulary, update),
        ("gathered blocks", gathered_bytes(size, dtype) if shards > 1 else 0, update),
        ("optimizer in work", 4 * trained if on_gpu else 8.0 * size.largest / shards, frozenset({"optimizer"})),
        ("optimizer, being written", 0 if on_gpu else 16 * trained, frozenset({"checkpoint"})),
        ("weights, gathered", 4 * size.parameters if not on_gpu and (shards > 1) else 0, frozenset({"checkpoint"})),
    ]
    return Footprint([Part(*part) for part in parts if part[1]], sizes, at_a_time)


def _holes(size: ModelSize, config: PlanConfig, positions: int, *, recomputes: bool) -> float:
    """Activations that were freed in the backward pass and cannot be used by what comes next. (Of sharded weights large
    blocks are mapped apart.)"""
    width, layers = getattr(torch, config.scale.dtype).itemsize, 1 if recomputes else size.layers
    kinds = ((11, size.dim), (4, size.inner))  # as in ModelSize.activation_bytes
    blocks = [(count, positions * numbers * width) for count, numbers in kinds]
    freed = sum(layers * count * block for count, block in blocks if block < _HEAP_BLOCK)
    filled = 4 * size.trained * (2 if measures_apart(config) else 1)
    return max(0.0, _HOLES * freed - filled)


def shards_of(config: PlanConfig) -> int:
    """Number of processes over which weights, gradients and optimizer are sharded."""
    sharded = {"fsdp": config.processes, "hsdp": min(config.processes, config.per_machine)}
    return sharded.get(config.scale.parallel, 1)
