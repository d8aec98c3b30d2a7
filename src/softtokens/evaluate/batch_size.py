"""How many rows are decoded together: from a memory budget, and fewer if that was too optimistic."""

from __future__ import annotations

from softtokens.models.hf import HFPolicy
from softtokens.rollout.limits import Limits, needed_positions
from softtokens.rollout.memory import ROW_MULTIPLE, bytes_per_row, free_bytes

_MOST_ROWS = {"cpu": 256, "cuda": 1024}  # larger batches are no faster


class BatchSize:
    """The number of rows of a batch; falls when memory runs out."""

    def __init__(self, policy: HFPolicy, *, rows: int | None, memory: float | None):
        self._policy, self._rows, self._memory = policy, rows, memory
        self._ceiling: int | None = None

    def allowed(self, prompts: list[list[int]], limits: Limits) -> int:
        """Number of rows that fit with these prompts, given the longest of them."""
        if self._rows is not None:
            rows = self._rows
        else:
            per_row = bytes_per_row(self._policy, needed_positions(self._policy, prompts, limits), limits)
            rows = int(self._budget() // per_row) // ROW_MULTIPLE * ROW_MULTIPLE
            rows = max(ROW_MULTIPLE, min(rows, _MOST_ROWS[self._policy.device.type]))
        return rows if self._ceiling is None else min(rows, self._ceiling)

    def lower(self, rows: int) -> None:
        """Limit the number of rows from now on, because more ran out of memory."""
        self._ceiling = rows if self._ceiling is None else min(rows, self._ceiling)

    def _budget(self) -> float:
        return free_bytes(self._policy.device) if self._memory is None else self._memory * 1e9
