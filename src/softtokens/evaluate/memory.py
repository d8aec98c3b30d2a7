"""How many rows are decoded together: from a memory budget, and half as many when it was too optimistic."""

from __future__ import annotations

import logging

from softtokens.models.hf import HFPolicy
from softtokens.rollout.limits import Limits, needed_positions
from softtokens.rollout.memory import ROW_MULTIPLE, bytes_per_row, free_bytes, release
from softtokens.types import UserError

log = logging.getLogger(__name__)
_MOST_ROWS = {"cpu": 256, "cuda": 1024}  # beyond them nothing is gained


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
        if self._policy.recordings is not None:
            self._policy.recordings.clear()
        release(self._policy.device)

    def _budget(self) -> float:
        return free_bytes(self._policy.device) if self._memory is None else self._memory * 1e9
