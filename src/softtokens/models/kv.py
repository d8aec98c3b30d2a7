"""Keys and values of a batch of rows, each row at its own position.

Passed to a transformers model in the place of its cache: the attention layers call `update` and nothing else. That one
call has kept its meaning over all of transformers 5, while the library's own cache classes have not.
"""

from __future__ import annotations

import torch
from torch import Tensor


class SlotKV:
    """Per layer two buffers [rows, kv_heads, capacity, head_dim], allocated at the first update (the prefill).

    `write_at` is None during the prefill, which writes positions 0..seq-1 of every row. For a decode step it holds the
    position of each row, int64 [rows], and `view` the number of leading positions that attention looks at.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.write_at: Tensor | None = None
        self.view = 0

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Store new keys and values [rows, kv_heads, seq, head_dim]; return those that attention should see."""
        del args, kwargs  # older versions pass rotary tables that a plain cache does not need
        if self.write_at is None:
            self.layers[layer_idx] = (_padded(key, self.capacity), _padded(value, self.capacity))
            return key, value
        keys, values = self.layers[layer_idx]
        rows = torch.arange(key.shape[0], device=key.device)
        keys[rows, :, self.write_at] = key[:, :, 0]
        values[rows, :, self.write_at] = value[:, :, 0]
        return keys[:, :, : self.view], values[:, :, : self.view]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Asked by some models even when position ids are given; the answer is not used then."""
        del layer_idx
        return self.view

    def take(self, rows: Tensor, capacity: int | None = None) -> SlotKV:
        """A copy that holds the given rows (repeats allowed), by default with the same capacity."""
        taken = SlotKV(capacity or self.capacity)
        used = min(self.capacity, taken.capacity)
        for layer, (keys, values) in self.layers.items():
            taken.layers[layer] = tuple(_padded(b[rows, :, :used], taken.capacity) for b in (keys, values))
        return taken


def _padded(x: Tensor, capacity: int) -> Tensor:
    """Zeros beyond what is there, not uninitialised memory: attention weights of 0 times NaN would be NaN."""
    rows, heads, seq, dim = x.shape
    if seq == capacity:
        return x
    out = x.new_zeros(rows, heads, capacity, dim)
    out[:, :, :seq] = x
    return out
