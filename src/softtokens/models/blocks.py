"""The transformer blocks of a model: the units that are sharded, and whose activations are computed again."""

from __future__ import annotations

import functools

from torch import nn
from torch.utils.checkpoint import checkpoint

from softtokens.types import UserError


def blocks(model: nn.Module) -> list[nn.Module]:
    """In order. UserError for a model that does not say which of its modules they are."""
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    found = [module for module in model.modules() if type(module).__name__ in kinds]
    if not found:
        raise UserError(
            f"{type(model).__name__} does not say what its blocks are (_no_split_modules): it cannot be sharded or "
            "checkpointed; use parallel ddp and no activation_checkpointing"
        )
    return found


def recompute_activations(model: nn.Module) -> None:
    """Keep what enters each block only, and run the block again in the backward pass. Same values, same gradients."""
    for block in blocks(model):
        # transformers' own switch works in train mode only, and turns off the cache that shares the prompts
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
