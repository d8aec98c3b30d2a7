"""What rollouts and their replay take of memory, and how much of both fits."""

from __future__ import annotations

import logging
import os

import torch

from softtokens.models.hf import HFPolicy
from softtokens.rollout.limits import Limits

log = logging.getLogger(__name__)
ROW_MULTIPLE = 8  # matrix products of such sizes give each row the same bits whatever the batch
_BYTES_PER_LOGIT = 16  # logits, their weights at up to two temperatures, and a copy of either, in float32


def free_bytes(device: torch.device) -> float:
    """What may be used: 80 % of what an accelerator has free, a quarter of what the machine has."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for reuse
        return 0.8 * (torch.cuda.mem_get_info(device)[0] + kept)
    return 0.25 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def bytes_per_row(policy: HFPolicy, positions: int, limits: Limits) -> int:
    """Upper bound on what one row of a rollout holds: its cache, and once more for the copy of its prompt, logits, and
    thoughts, which are on the tape and then in the rollout."""
    vocab, dim = policy.vocabulary.head.shape
    return 2 * _cache_bytes(policy, positions) + _BYTES_PER_LOGIT * vocab + 2 * 4 * dim * limits.max_thought_steps


def bytes_per_token(policy: HFPolicy) -> int:
    """What one position holds between the forward and the backward pass: per layer about 11 vectors of the hidden and 4
    of the inner size in the models' precision (counted for Llama and Qwen2: 9.6 to 10.3 and 4), and the keys and values
    of the prompt, put in front of each row's own, once more."""
    config = policy.model.config.get_text_config()
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    layers = config.num_hidden_layers * (11 * config.hidden_size + 4 * inner) * policy.model.dtype.itemsize
    return layers + _cache_bytes(policy, 1)


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


def _cache_bytes(policy: HFPolicy, positions: int) -> int:
    config = policy.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * head_dim * positions * policy.model.dtype.itemsize
