"""How many rows are decoded together: from a memory budget, and half as many when it was too optimistic."""

from __future__ import annotations

import gc
import logging
import os

import torch

from softtokens.models.hf import HFPolicy
from softtokens.rollout.decode import Limits, needed_positions
from softtokens.types import UserError

log = logging.getLogger(__name__)
ROW_MULTIPLE = 8  # matrix products of such sizes give each row the same bits whatever the batch
_MOST_ROWS = {"cpu": 256, "cuda": 1024}  # beyond them nothing is gained
_BYTES_PER_LOGIT = 24  # logits and weights in float32, a float64 copy and its cumulative sum


class Rows:
    """The number of rows of a batch; falls when memory runs out."""

    def __init__(self, policy: HFPolicy, *, rows: int | None, memory: float | None):
        self._policy, self._rows, self._memory = policy, rows, memory
        self._ceiling: int | None = None

    def allowed(self, prompts: list[list[int]], limits: Limits) -> int:
        """Rows that fit with these prompts, the longest first in mind."""
        if self._rows is not None:
            rows = self._rows
        else:
            per_row = bytes_per_row(self._policy, needed_positions(self._policy, prompts, limits), limits)
            rows = int(self._budget() // per_row) // ROW_MULTIPLE * ROW_MULTIPLE
            rows = max(ROW_MULTIPLE, min(rows, _MOST_ROWS[self._policy.device.type]))
        return rows if self._ceiling is None else min(rows, self._ceiling)

    def halve(self, failed: int) -> None:
        """After a batch of `failed` rows ran out of memory. UserError when a single row does."""
        if failed <= 1:
            raise UserError(
                "memory ran out with a single row in the batch; lower max_thought_steps, take a machine with more, or "
                "use --dtype bfloat16"
            )
        half = failed // 2
        self._ceiling = half // ROW_MULTIPLE * ROW_MULTIPLE or half
        log.info("memory ran out with %d rows in a batch; going on with %d", failed, self._ceiling)
        if self._policy.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

    def padding(self, rows: int) -> int:
        """Rows to add to a batch so that each of its rows has the same bits in any batch. None once memory is so short
        that fewer than 8 rows fit: results then differ by rounding."""
        short = self._ceiling is not None and self._ceiling < ROW_MULTIPLE
        return 0 if short else -rows % ROW_MULTIPLE

    def _budget(self) -> float:
        if self._memory is not None:
            return self._memory * 1e9
        if self._policy.device.type == "cuda":
            device = self._policy.device
            kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for reuse
            return 0.8 * (torch.cuda.mem_get_info(device)[0] + kept)
        return 0.25 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def bytes_per_row(policy: HFPolicy, positions: int, limits: Limits) -> int:
    """Upper bound on what one row holds: its cache twice (it is copied when rows leave), logits, and the thoughts."""
    config = policy.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * head_dim * positions * policy.model.dtype.itemsize
    vocab, dim = policy.vocabulary.head.shape
    return 2 * cache + _BYTES_PER_LOGIT * vocab + 2 * 4 * dim * limits.max_thought_steps


def is_out_of_memory(error: BaseException) -> bool:
    """torch raises its own kind on an accelerator and a plain RuntimeError on a CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
