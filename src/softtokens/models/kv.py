"""Keys and values of a batch of slots, each at its own position.

Passed to a transformers model instead of its cache: the attention layers only call `update`. That call has been stable
over all of transformers 5, while the library's own cache classes have not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from softtokens.models.prefix import PromptStates


class SlotKV:
    """Per layer two buffers [slots, kv_heads, capacity, head_dim], allocated once, at the first `fill`.

    For a decode step `write_at` holds the position of each of the leading slots in use, int64 [rows], and `view` the
    number of leading positions that attention looks at.
    """

    def __init__(self, slots: int, capacity: int):
        self.slots = slots
        self.capacity = capacity
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.write_at: Tensor | None = None
        self.view = 0

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values [rows, kv_heads, 1, head_dim]; returns those that attention reads."""
        del args, kwargs  # older versions pass rotary tables that a plain cache does not need
        keys, values = self.layers[layer_idx]
        rows = torch.arange(key.shape[0], device=key.device)
        keys[rows, :, self.write_at] = key[:, :, 0]
        values[rows, :, self.write_at] = value[:, :, 0]
        return keys[: key.shape[0], :, : self.view], values[: key.shape[0], :, : self.view]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Asked by some models even when position ids are given; the answer is not used then."""
        del layer_idx
        return self.view

    def fill(self, slots: Tensor, prompts: PromptStates, prompt_of_slot: Tensor) -> None:
        """Copy the keys and values of prompts, which may repeat, into slots."""
        for layer, states in prompts.layers.items():
            if layer not in self.layers:
                # zeros, not uninitialised memory: attention weights of 0 times NaN would be NaN
                key, value = (x.new_zeros(self.slots, x.shape[1], self.capacity, x.shape[3]) for x in states)
                self.layers[layer] = (key, value)
            for buffer, x in zip(self.layers[layer], states, strict=True):
                length = min(x.shape[2], self.capacity)  # the rest is padding
                buffer[slots, :, :length] = x[prompt_of_slot, :, :length]

    def move(self, to: Tensor, source: Tensor) -> None:
        """Copy slots onto others."""
        for pair in self.layers.values():
            for buffer in pair:
                buffer[to] = buffer[source]
