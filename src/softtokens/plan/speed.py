"""Roofline estimate of a step's time: what has to be read, multiplied and sent, over what the device can do."""

from __future__ import annotations

import dataclasses

from softtokens.config.plan import PlanConfig
from softtokens.models.size import ModelSize
from softtokens.plan.devices import Device
from softtokens.plan.footprint import shards_of, share_of

# Shares of a peak that we reach: soft steps of a 3B model in bfloat16 on an H100, see benchmarks/README.md.
SHARE_OF_BANDWIDTH, SHARE_OF_FLOPS = 0.34, 0.42
_ADAM_BYTES = 28  # per parameter: weight, gradient and two moments read, all but the gradient written


@dataclasses.dataclass(frozen=True)
class Seconds:
    """Time of one step in one process at the roofline, which no program beats."""

    decode: float
    update: float
    optimizer: float
    network: float

    @property
    def bound(self) -> float:
        return self.decode + self.update + self.optimizer + self.network

    @property
    def expected(self) -> float:
        memory = self.decode + self.optimizer + self.network
        return memory / SHARE_OF_BANDWIDTH + self.update / SHARE_OF_FLOPS


def seconds_of(
    config: PlanConfig, size: ModelSize, device: Device, positions_at_a_time: int, *, recomputes: bool = False
) -> Seconds:
    """positions_at_a_time: of a backward pass. recomputes: whether it computes activations again."""
    work = share_of(config)
    width = 2 if config.scale.dtype == "bfloat16" else 4
    peak, shards = device.flops[config.scale.dtype], shards_of(config)
    mixes, matrix = config.thought.family.mixes_table, size.vocab * size.dim
    body = size.parameters - matrix * (1 if size.tied else 2)
    reads = body + matrix * (2 if mixes else 1)  # a mixture reads both head and table
    context = config.prompt_tokens + work.emitted / 2
    attention = 4 * size.layers * size.kv_dim * context  # operations per position, a lower bound

    cache = work.rows * 2 * size.layers * size.kv_dim * context * width
    of_one_step = max((width * reads + cache) / device.bandwidth, work.rows * (2 * reads + attention) / peak)
    prompts = work.prompts * config.prompt_tokens
    decode = work.emitted * of_one_step + 2 * body * prompts / peak

    # forward, gradients of the inputs, and of the weights that are trained; all over again for activations
    whole = size.trained / size.parameters
    passes = 4 + 2 * whole + (2 if recomputes else 0)
    adapters = size.trained < size.parameters  # then head and table get no gradient
    of_thoughts = ((8 if mixes else 4) if adapters else (12 if mixes else 6)) * matrix * config.max_thought_steps
    of_answers = (4 if adapters else 6) * matrix * config.max_answer_tokens
    positions = work.rows * work.emitted + prompts
    update = (positions * (passes * body + 3 * attention) + work.rows * (of_thoughts + of_answers)) / peak
    if config.term_norms_every > 0 or config.clip == "each":  # one pass per term
        update *= 1 + (1 / config.term_norms_every if config.clip == "sum" else 1)
    if config.signal_every > 0:  # one pass per half
        update *= 1 + 1 / config.signal_every

    network = 0.0
    if config.processes > 1:
        share = 1 - 1 / config.processes
        sent = 8 * size.trained * share  # all-reduce: every gradient is sent, and the sum is sent back
        if (
            shards > 1
        ):  # all-gather in the forward and the backward pass, reduce-scatter of gradients, and a refreshed copy
            times = -(-work.rows * work.emitted // positions_at_a_time)
            sent = (1 - 1 / shards) * (times * (2 * width * size.parameters + 4 * size.trained) + 4 * size.parameters)
        network = sent / device.link
    return Seconds(decode, update, _ADAM_BYTES * size.trained / shards / device.bandwidth, network)
