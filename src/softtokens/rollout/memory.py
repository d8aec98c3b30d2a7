"""What rollouts and their replay take of memory, and how much of both fits."""

from __future__ import annotations

import logging
import os

import torch

from softtokens.models.hf import HFPolicy
from softtokens.models.size import ModelSize
from softtokens.ops.streamed import chunk_rows_of
from softtokens.rollout.limits import Limits

log = logging.getLogger(__name__)
ROW_MULTIPLE = 8  # matrix products of such sizes give each row the same bits whatever the batch
BYTES_PER_LOGIT = 16  # logits, their weights at up to two temperatures, and a copy of either, in float32


USABLE = 0.8  # of what an accelerator has free; the rest is lost in pieces


def free_bytes(device: torch.device, spoken_for: float = 0.0) -> float:
    """What may be used: of an accelerator most of what it has free, less what others will take of it (`spoken_for`);
    of a machine's memory a quarter, the others having the rest."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for reuse
        return USABLE * (torch.cuda.mem_get_info(device)[0] + kept) - spoken_for
    return 0.25 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def bytes_per_row(policy: HFPolicy, positions: int, limits: Limits) -> int:
    """Upper bound on what one row of a rollout holds."""
    return row_bytes(ModelSize.of(policy.model), policy.model.dtype, positions, limits.max_thought_steps)


def row_bytes(size: ModelSize, dtype: torch.dtype, positions: int, thoughts: int) -> int:
    """Of one row its cache, and once more for the copy of its prompt, logits, and thoughts, which are on the tape and
    then in the rollout."""
    return 2 * size.cache_bytes(positions, dtype) + BYTES_PER_LOGIT * size.vocab + 2 * 4 * size.dim * thoughts


def bytes_per_token(policy: HFPolicy, *, checkpointed: bool = False) -> int:
    """What one position holds between the forward and the backward pass."""
    return position_bytes(ModelSize.of(policy.model), policy.model.dtype, checkpointed=checkpointed)


def position_bytes(size: ModelSize, dtype: torch.dtype, *, checkpointed: bool = False) -> int:
    """The activations of the model, and about 16 vectors around it in float32: inputs, noise, states, means and their
    gradients."""
    return size.activation_bytes(dtype, checkpointed=checkpointed) + 16 * 4 * size.dim


def vocabulary_bytes(size: ModelSize, kind: str, rows: int, *, ways: int) -> float:
    """What scores over the vocabulary work with. Three chunks of logits, for at most `rows` rows on a device of this
    kind, and a gradient for each of the ways into head and table; one more matrix when the chunks are gone."""
    matrix, chunk = 4.0 * size.vocab * size.dim, 3 * 4.0 * size.vocab * min(rows, chunk_rows_of(size.vocab, kind))
    return ways * matrix + max(chunk, matrix) if ways else chunk


def fitting_rows(policy: HFPolicy, wanted: int, positions: int, limits: Limits, *, spoken_for: float = 0.0) -> int:
    """How many of the wanted rows can run at a time; fewer than wanted are said. spoken_for: as in `free_bytes`."""
    rows = rows_in(free_bytes(policy.device, spoken_for), bytes_per_row(policy, positions, limits), wanted)
    if rows < wanted:
        log.warning("there is memory for %d of the %d rollouts at a time; the others wait for places", rows, wanted)
    return rows


def rows_in(free: float, per_row: float, wanted: int) -> int:
    """All that are wanted, or as many as fit in a multiple that gives each row the same bits; there is no less."""
    rows = int(free // per_row)
    return wanted if rows >= wanted else min(wanted, max(ROW_MULTIPLE, rows // ROW_MULTIPLE * ROW_MULTIPLE))


def fitting_tokens(policy: HFPolicy, wanted: int, *, spoken_for: float = 0.0, checkpointed: bool = False) -> int:
    """How many of the wanted positions can go through a backward pass at a time; fewer than wanted are said."""
    free = free_bytes(policy.device, spoken_for)
    tokens = tokens_in(free, bytes_per_token(policy, checkpointed=checkpointed), wanted)
    if tokens < wanted:
        log.warning(
            "there is memory for %d positions in a backward pass, not for %d; it takes more passes", tokens, wanted
        )
    return tokens


def tokens_in(free: float, per_token: float, wanted: int) -> int:
    """At least one, for there is nothing less to try."""
    return max(1, min(wanted, int(free // per_token)))


def is_out_of_memory(error: BaseException) -> bool:
    """torch raises its own kind on an accelerator and a plain RuntimeError on a CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
