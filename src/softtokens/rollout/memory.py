"""What rollouts and their replay take of memory, and how much of both fits."""

from __future__ import annotations

import logging
import os

import torch

from softtokens.models.hf import HFPolicy
from softtokens.models.size import ModelSize
from softtokens.rollout.limits import Limits

log = logging.getLogger(__name__)
ROW_MULTIPLE = 8  # matrix products of such sizes give each row the same bits whatever the batch
BYTES_PER_LOGIT = 16  # logits, their weights at up to two temperatures, and a copy of either, in float32


def free_bytes(device: torch.device) -> float:
    """What may be used: 80 % of what an accelerator has free, a quarter of what the machine has."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for reuse
        return 0.8 * (torch.cuda.mem_get_info(device)[0] + kept)
    return 0.25 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def bytes_per_row(policy: HFPolicy, positions: int, limits: Limits) -> int:
    """Upper bound on what one row of a rollout holds: its cache, and once more for the copy of its prompt, logits, and
    thoughts, which are on the tape and then in the rollout."""
    size, dtype = ModelSize.of(policy.model), policy.model.dtype
    thoughts = 2 * 4 * size.dim * limits.max_thought_steps
    return 2 * size.cache_bytes(positions, dtype) + BYTES_PER_LOGIT * size.vocab + thoughts


def bytes_per_token(policy: HFPolicy) -> int:
    """What one position holds between the forward and the backward pass."""
    return ModelSize.of(policy.model).activation_bytes(policy.model.dtype)


def fitting_rows(policy: HFPolicy, wanted: int, positions: int, limits: Limits) -> int:
    """How many of the wanted rows can run at a time; fewer than wanted are said."""
    rows = int(free_bytes(policy.device) // bytes_per_row(policy, positions, limits))
    if rows >= wanted:
        return wanted
    rows = max(ROW_MULTIPLE, rows // ROW_MULTIPLE * ROW_MULTIPLE)
    log.warning("there is memory for %d of the %d rollouts at a time; the others wait for free places", rows, wanted)
    return min(rows, wanted)


def fitting_tokens(policy: HFPolicy, wanted: int) -> int:
    """How many of the wanted positions can go through a backward pass at a time; fewer than wanted are said."""
    tokens = int(free_bytes(policy.device) // bytes_per_token(policy))
    if tokens >= wanted:
        return wanted
    log.warning("there is memory for %d positions in a backward pass, not for %d; it takes more passes", tokens, wanted)
    return max(1, tokens)


def is_out_of_memory(error: BaseException) -> bool:
    """torch raises its own kind on an accelerator and a plain RuntimeError on a CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
