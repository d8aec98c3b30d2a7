"""Memory that rollouts and their replay take, and how many fit."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable
from typing import TypeVar

import torch

from softtokens.models.hf import HFPolicy
from softtokens.models.size import ModelSize
from softtokens.ops.streamed import chunk_rows_of
from softtokens.rollout.decoder import Decoder
from softtokens.rollout.limits import Limits
from softtokens.types import UserError

T = TypeVar("T")
log = logging.getLogger(__name__)

ROW_MULTIPLE = 8  # with such row counts, matrix products give a row the same bits in every batch
BYTES_PER_LOGIT = 16  # logits, their weights at up to two temperatures, and a copy of either, in float32
USABLE = 0.8  # share of an accelerator's free memory; the rest is lost to fragmentation


def free_bytes(device: torch.device) -> float:
    """Usable memory: most of an accelerator's free memory, or a quarter of a machine's."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # cached by torch for reuse
        return USABLE * (torch.cuda.mem_get_info(device)[0] + kept)
    return 0.25 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def bytes_per_row(policy: HFPolicy, positions: int, limits: Limits) -> int:
    """Upper bound on what one row of a rollout holds, with a prompt of its own."""
    size, dtype = ModelSize.of(policy.model), policy.model.dtype
    return row_bytes(size, dtype, positions, limits.max_thought_steps) + size.cache_bytes(positions, dtype)


def row_bytes(size: ModelSize, dtype: torch.dtype, positions: int, thoughts: int) -> int:
    """Bytes of one row: its cache, its logits, and its thoughts (on the tape and then in the rollout)."""
    return size.cache_bytes(positions, dtype) + logit_bytes(size) + 2 * thought_bytes(size, thoughts)


def logit_bytes(size: ModelSize) -> int:
    """Bytes of one row's logits and their weights in a decode step."""
    return BYTES_PER_LOGIT * size.vocab


def thought_bytes(size: ModelSize, thoughts: int) -> int:
    """Bytes of the vectors fed at this many thought steps of one row, in float32."""
    return 4 * size.dim * thoughts


def position_bytes(size: ModelSize, dtype: torch.dtype, *, checkpointed: bool = False) -> int:
    """The activations of the model, and about 16 vectors around it in float32: inputs, noise, states, means and their
    gradients."""
    return size.activation_bytes(dtype, checkpointed=checkpointed) + 16 * 4 * size.dim


def vocabulary_bytes(size: ModelSize, kind: str, rows: int, *, ways: int) -> float:
    """Bytes that scoring over the vocabulary works with: three chunks of logits, for at most `rows` rows on a device of
    this kind, and a gradient for each of the ways into head and table; one more matrix when the chunks are gone."""
    matrix, chunk = 4.0 * size.vocab * size.dim, 3 * 4.0 * size.vocab * min(rows, chunk_rows_of(size.vocab, kind))
    return ways * matrix + max(chunk, matrix) if ways else chunk


def rows_in(free: float, per_row: float, wanted: int) -> int:
    """All wanted rows, or as many as fit, as a multiple that gives each row the same bits. At least the smallest
    multiple."""
    rows = int(free // per_row)
    return wanted if rows >= wanted else min(wanted, max(ROW_MULTIPLE, rows // ROW_MULTIPLE * ROW_MULTIPLE))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means out of memory. torch raises its own class on an accelerator and a plain RuntimeError on
    a CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def with_fewer_slots(slots: int, work: Callable[[int], T], decoder: Decoder) -> tuple[T, int]:
    """Call `work` with this many slots, halved as long as memory runs out. Returns its result, and the number of slots
    that worked. UserError if a single rollout does not fit."""
    while True:
        try:
            return work(slots), slots
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if slots <= 1:
                raise UserError(
                    "memory ran out with a single rollout; lower max_thought_steps, use --dtype bfloat16, or take a "
                    "device with more memory"
                ) from error
        half = slots // 2
        fewer = half // ROW_MULTIPLE * ROW_MULTIPLE or half
        log.warning("out of memory with %d rollouts at a time; continuing with %d", slots, fewer)
        decoder.drop_recordings()
        release(decoder.policy.device)
        slots = fewer


def release(device: torch.device) -> None:
    """Return the memory of a failed allocation to the device. Call it after the error is dropped: its traceback
    keeps tensors alive."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
