"""The transformer blocks of a model: the units that are sharded, and whose activations can be recomputed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from softtokens.types import UserError


def blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model, in order. UserError if the model does not identify them."""
    known = known_blocks(model)
    if not known:
        raise UserError(
            f"{type(model).__name__} does not say what its blocks are (_no_split_modules): it cannot be sharded or "
            "checkpointed; use parallel ddp and activation_checkpointing never"
        )
    return known


def known_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model, in order; empty if the model does not identify them."""
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in kinds]


def recompute_activations(units: Iterable[nn.Module]) -> None:
    """Store only the inputs of these blocks, and run the blocks again in the backward pass. Values and gradients
    stay the same."""
    for block in units:
        # transformers' own switch works in train mode only, and turns off the cache that shares the prompts
        block.forward = functools.partial(_recomputing, block.forward)


def _recomputing(forward: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **options)
    return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **options)
