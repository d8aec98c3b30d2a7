"""From configuration to objects: the weights in the requested form, and how much runs at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from softtokens.config.thought import ThoughtConfig
from softtokens.config.train import TrainConfig
from softtokens.ending_setup import endings_of
from softtokens.endings import Endings
from softtokens.models import lora, thought_head
from softtokens.models.blocks import blocks, recompute_activations
from softtokens.models.hf import HFPolicy, load_policy
from softtokens.rollout.limits import Limits, emitted_positions
from softtokens.rollout.memory import free_bytes
from softtokens.task_setup import chat_of
from softtokens.thoughts import build_thought
from softtokens.train.batch_sizes import BatchSizes, Share, choose
from softtokens.train.process_memory import map_blocks_apart
from softtokens.train.weights import Sharded, Weights, WithMasters
from softtokens.world.processes import World

log = logging.getLogger(__name__)


def load_weights(
    config: TrainConfig,
    folder: Path | None,
    world: World,
    template: str,
    endings: Endings,
    settings: Sequence[ThoughtConfig] | None = None,
) -> Weights:
    """The policy, from a checkpoint if there is one, in the form that the configuration asks for. template: of the
    problems it is trained on. endings: of its thoughts. settings: how it will think, where that is not only in
    `config.thought`."""
    scale = config.scale

    def load(device: torch.device) -> HFPolicy:
        policy = load_policy(
            folder or config.model, device=device, mask_unused=config.mask_unused, merge_adapters=False
        )
        policy.template, policy.chat, policy.endings = template, chat_of(config.task), endings
        policy.logits_rounding = rounding_of(config)
        if scale.lora_rank and not lora.has_adapters(policy.model):
            lora.add(policy.model, scale.lora_rank, scale.lora_alpha, scale.lora_targets, seed=config.seed)
        for setting in settings or (config.thought,):
            thought = build_thought(setting, policy.embedding_rms)
            thought_head.require(policy.model, thought.new_head, seed=config.seed if folder is None else None)
        return policy

    dtype = getattr(torch, scale.dtype)
    if scale.parallel in ("fsdp", "hsdp") and world.size > 1:
        map_blocks_apart(world.device)
        in_main_memory = torch.device("cpu")
        return Sharded(lambda: load(in_main_memory), world, hybrid=scale.parallel == "hsdp", dtype=dtype)
    policy = load(world.device)
    return Weights(policy, world) if dtype == torch.float32 else WithMasters(policy, world)


def training_endings(config: TrainConfig) -> Endings:
    """How thoughts end in a training run."""
    return endings_of(config.endings, config.model, chat_of(config.task), max_answer_tokens=config.max_answer_tokens)


def batch_sizes_of(
    config: TrainConfig, weights: Weights, positions: int, limits: Limits, validation: int
) -> BatchSizes:
    """How much runs at a time, in all processes. positions: of the longest rollout, with its prompt. validation:
    problems. Where memory asks for it, activations are recomputed from here on."""
    world, group = weights.world, config.group_size
    rows = world.share(config.problems_per_step * group)
    emitted = emitted_positions(weights.sampler, limits)
    share = Share(
        rows=len(rows),
        prompts=len({row // group for row in rows}),
        prompt_positions=positions - emitted,
        emitted=emitted,
        validated=len(world.share(validation)),
    )
    free = free_bytes(world.device)
    sizes = choose(config, weights.size, share, kind=world.device.type, free=free, shards=weights.shards)
    sizes.recomputes = any(world.gather(sizes.recomputes))
    if sizes.recomputes:
        recompute_activations(weights.blocks or blocks(weights.policy.model))  # `blocks` raises if it cannot name them
    if sizes.slots < share.rows:
        log.warning(
            "memory has room for %d of the %d rollouts at a time; the others follow as these finish",
            sizes.slots,
            share.rows,
        )
    return sizes


def rounding_of(config: TrainConfig) -> torch.dtype | None:
    """The dtype that logits are rounded to, or None."""
    return None if config.logits_dtype == "float32" else getattr(torch, config.logits_dtype)
