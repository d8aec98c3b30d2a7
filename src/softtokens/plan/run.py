"""`softtokens plan`: memory and time of a run, whether it fits, and which flags would make it fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

from softtokens.config.plan import PlanConfig
from softtokens.models import lora
from softtokens.models.files import load_without_weights
from softtokens.models.hf import HFPolicy, load_policy
from softtokens.models.size import ModelSize
from softtokens.ops.random import Keys
from softtokens.plan.devices import Device, device_of
from softtokens.plan.footprint import Footprint, footprint, share_of
from softtokens.plan.speed import Seconds, seconds_of
from softtokens.rollout.decode import sample_rollout
from softtokens.rollout.limits import Limits
from softtokens.rollout.record import Rollout
from softtokens.thoughts import Thought, build_thought
from softtokens.train.gradient import Batch, accumulate_gradient
from softtokens.train.objective import TermWeights
from softtokens.train.process_memory import give_back, resident_bytes
from softtokens.train.weights import Weights
from softtokens.types import UserError

_CUDA_CONTEXT = 1e9  # driver, cuBLAS and allocator overhead; an assumption
_USABLE = 0.95  # share of a device's memory


@dataclasses.dataclass(frozen=True)
class Change:
    """Flags that were added, and the peak with them, bytes."""

    flags: str
    peak: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """peak: bytes, in the phase `phase`. changes: each with those before it, until the run fits; none if it does."""

    size: ModelSize
    device: Device
    memory: Footprint
    seconds: Seconds
    changes: list[Change]

    @property
    def phase(self) -> str:
        return max(self.memory.phases, key=self.memory.phases.__getitem__)

    @property
    def peak(self) -> float:
        return self.memory.peak

    @property
    def fits(self) -> bool:
        return fits(self.peak, self.device)


def fits(peak: float, device: Device) -> bool:
    return peak <= _USABLE * device.memory


def plan(config: PlanConfig) -> Plan:
    """Make the plan. Loads the model's configuration, not its weights. UserError for an unknown model or device."""
    size = size_of(config)
    device = device_of(config)
    runtime = _CUDA_CONTEXT if device.kind == "cuda" else rehearsed_bytes()
    memory = footprint(config, size, device, runtime)
    changes = [] if fits(memory.peak, device) else list(_changes(config, device, runtime, memory.peak))
    seconds = seconds_of(config, size, device, memory.positions, recomputes=memory.batch_sizes.recomputes)
    return Plan(size, device, memory, seconds, changes)


def size_of(config: PlanConfig) -> ModelSize:
    model = load_without_weights(config.model)
    scale, context = config.scale, getattr(model.config.get_text_config(), "max_position_embeddings", None)
    needed = config.prompt_tokens + share_of(config).emitted
    if context is not None and needed > context:
        raise UserError(
            f"prompt_tokens {config.prompt_tokens}, max_thought_steps {config.max_thought_steps} and max_answer_tokens "
            f"{config.max_answer_tokens} need {needed} positions, but the model's context is {context}; lower them"
        )
    if scale.lora_rank and not lora.has_adapters(model):
        lora.add(model, scale.lora_rank, scale.lora_alpha, scale.lora_targets, seed=config.seed)
    return ModelSize.of(model)


def rehearsed_bytes() -> float:
    """Bytes that this process holds after doing everything a step does with a model of no size: libraries, and what
    they allocate on first use."""
    policy = load_policy("tiny")
    thought = build_thought(PlanConfig().thought, policy.embedding_rms)
    rollout = _tiny_rollout(policy, thought)
    weights = Weights(policy)
    batch = Batch(thought, rollout, torch.linspace(-1, 1, rollout.rows), rollout.rows)
    accumulate_gradient(weights, batch, TermWeights())
    torch.optim.AdamW(weights.parameters.values(), lr=0.0).step()
    weights.put_gradients(None)
    del batch, rollout
    give_back(policy.device)
    return resident_bytes()


def _tiny_rollout(policy: HFPolicy, thought: Thought) -> Rollout:
    prompt = policy.tokenizer.encode("1+1=")
    keys = Keys(0, torch.zeros(8, dtype=torch.int64), torch.arange(8))
    return sample_rollout(policy, thought, [prompt], [0] * 8, keys, Limits(4, 2))


def _changes(config: PlanConfig, device: Device, runtime: float, peak: float) -> Iterator[Change]:
    """Flags that reduce memory, cheapest first."""
    flags = ""
    left = list(_CHEAPER)
    while left and not fits(peak, device):
        tried = ((words, change, change(config)) for words, change in left)
        lower = ((w, c, new, footprint(new, size_of(new), device, runtime).peak) for w, c, new in tried)
        # a change that did not help before may help after another one
        best = next((one for one in lower if one[3] < 0.99 * peak), None)
        if best is None:
            return
        words, change, config, peak = best
        left.remove((words, change))
        flags = f"{flags} {words}".strip()
        yield Change(flags, peak)


def _fewer_positions(config: PlanConfig) -> PlanConfig:
    return dataclasses.replace(config, tokens_per_backward=min(config.tokens_per_backward or 1024, 1024))


def _without_norms(config: PlanConfig) -> PlanConfig:
    return dataclasses.replace(config, term_norms_every=0)


def _sharded(config: PlanConfig) -> PlanConfig:
    several = config.processes > 1 and config.scale.parallel in ("auto", "ddp")
    return _scaled(config, parallel="fsdp") if several else config


def _in_bfloat16(config: PlanConfig) -> PlanConfig:
    """Not where rounding decides near ties."""
    cold = config.thought.mode != "hard" and config.thought.temperature <= 1e-3
    return config if cold else _scaled(config, dtype="bfloat16")


def _recomputing(config: PlanConfig) -> PlanConfig:
    return _scaled(config, activation_checkpointing="always")


def _with_adapters(config: PlanConfig) -> PlanConfig:
    return config if config.scale.lora_rank else _scaled(config, lora_rank=16)


def _scaled(config: PlanConfig, **changes: Any) -> PlanConfig:
    return dataclasses.replace(config, scale=dataclasses.replace(config.scale, **changes))


_CHEAPER = [
    ("--tokens-per-backward 1024", _fewer_positions),
    ("--term-norms-every 0", _without_norms),
    ("--parallel fsdp", _sharded),
    ("--dtype bfloat16", _in_bfloat16),
    ("--activation-checkpointing always", _recomputing),
    ("--lora-rank 16", _with_adapters),
]
