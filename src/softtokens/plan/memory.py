"""Memory of one process of a training run, part by part, in the phases of a step.

Rollouts are taken to be as long as they may get, and all of a step to run at a time (training runs fewer when memory is
short).
"""

from __future__ import annotations

import dataclasses

import torch

from softtokens.models.size import ModelSize
from softtokens.ops.streamed import chunk_rows_of
from softtokens.plan.devices import Device
from softtokens.planconfig import PlanConfig
from softtokens.rollout.memory import BYTES_PER_LOGIT
from softtokens.train.gradient import TOKENS_PER_BACKWARD

PHASES = ("rollout", "update", "optimizer", "checkpoint")
ALWAYS = frozenset(PHASES)
FORCED_TOKENS = 12  # "The final answer is: \boxed{", as most tokenizers cut it
_VECTORS_OF_A_STEP = 16  # inputs, noise, states, means and their gradients of the part in work, in float32


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
    at_a_time: int  # positions that go through a backward pass together

    @staticmethod
    def of(config: PlanConfig, kind: str) -> Rows:
        count = -(-config.problems_per_step * config.group_size // config.processes)
        emitted = config.max_thought_steps + FORCED_TOKENS + config.max_answer_tokens
        budget = config.tokens_per_backward or TOKENS_PER_BACKWARD[kind]
        at_a_time = min(count, max(1, budget // emitted)) * emitted
        return Rows(count, -(-config.problems_per_step // config.processes), emitted, at_a_time)


def memory_of(config: PlanConfig, size: ModelSize, device: Device, runtime: float) -> list[Part]:
    """Every part that is not empty. runtime: what the process takes before it holds anything, bytes."""
    rows, on_gpu = Rows.of(config, device.kind), device.kind == "cuda"
    dtype = getattr(torch, config.scale.dtype)
    width, half = dtype.itemsize, config.scale.dtype == "bfloat16"
    shards = shards_of(config)
    trained, matrix = size.trained / shards, 4.0 * size.vocab * size.dim
    mixes, apart = config.thought.mode != "hard", config.term_norms_every > 0 or config.clip == "each"
    # recorded decode steps keep their buffers for the next batch
    rollout = ALWAYS if on_gpu and config.decoding != "plain" else frozenset({"rollout"})
    held = frozenset({"update", "optimizer"})
    update = frozenset({"update"})
    full_precision = 0 if on_gpu or not half else matrix * (1 if size.tied else 2)
    # with validation one row per problem of it, all at a time
    decoded = max(rows.count, -(-config.validation_problems // config.processes) if config.validate_every else 0)
    thoughts = 4.0 * size.dim * config.max_thought_steps if mixes else 0.0
    positions = config.prompt_tokens + rows.emitted
    kept = size.activation_bytes(dtype, checkpointed=config.scale.activation_checkpointing)
    parts = [
        ("libraries", runtime, ALWAYS),
        ("weights", size.parameters * (width if shards == 1 else 4 / shards), ALWAYS),
        ("float32 masters", 4 * trained if half and shards == 1 else 0, ALWAYS),
        ("copy for rollouts", size.parameters * width if shards > 1 else 0, ALWAYS),
        ("optimizer", 8 * trained, ALWAYS),
        ("gradients", 4 * trained, held),
        ("gradients of one term apart", 4 * trained if apart else 0, update),
        ("KV cache", decoded * size.cache_bytes(positions, dtype), rollout),
        ("logits of a decode step", decoded * BYTES_PER_LOGIT * size.vocab, rollout),
        ("vocabulary in float32", full_precision, frozenset({"rollout", "update"})),
        ("thoughts on the tape", decoded * thoughts, rollout),
        ("stored thoughts", rows.count * thoughts, frozenset({"rollout"}) | held),
        ("activations", (rows.at_a_time + rows.prompts * config.prompt_tokens) * kept, update),
        ("thoughts in work", rows.at_a_time * _VECTORS_OF_A_STEP * 4 * size.dim, update),
        ("vocabulary in work", _vocabulary_in_work(config, size, device, rows, matrix), update),
        ("gathered blocks", _gathered(size, width) if shards > 1 else 0, update),
        ("optimizer in work", 4 * trained if on_gpu else 8.0 * size.largest / shards, frozenset({"optimizer"})),
        ("optimizer, being written", 0 if on_gpu else 16 * trained, frozenset({"checkpoint"})),
        ("weights, gathered", 4 * size.parameters if not on_gpu and (shards > 1) else 0, frozenset({"checkpoint"})),
    ]
    return [Part(*part) for part in parts if part[1]]


def totals(parts: list[Part]) -> dict[str, float]:
    """Bytes by phase."""
    return {phase: sum(part.size for part in parts if phase in part.phases) for phase in PHASES}


def shards_of(config: PlanConfig) -> int:
    """Over how many processes weights, gradients and optimizer are split."""
    sharded = {"fsdp": config.processes, "hsdp": min(config.processes, config.per_machine)}
    return sharded.get(config.scale.parallel, 1)


def _vocabulary_in_work(config: PlanConfig, size: ModelSize, device: Device, rows: Rows, matrix: float) -> float:
    """Three chunks of logits, and a gradient for each way into the two matrices: head and table of the mixture, head of
    the answers, embedding of what was fed. The last comes when the chunks are gone."""
    chunk = 3 * 4.0 * size.vocab * min(rows.at_a_time, chunk_rows_of(size.vocab, device.kind))
    if config.scale.lora_rank:
        return chunk
    ways = 2 if config.thought.mode == "hard" or config.thought.table_in_mean == "frozen" else 3
    return ways * matrix + max(chunk, matrix)


def _gathered(size: ModelSize, width: int) -> float:
    """What is whole while it computes, and its gradients until they are dealt out in float32."""
    return 2.0 * width * (size.root + 2 * size.block) + 4.0 * size.root
