"""Decoding for models with an unsupported cache: each step runs the whole sequence again.

Slow, and correct for any causal model. The "cache" holds the inputs instead of keys, so slots are filled, moved and
shared as for any other model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from softtokens.models.kv import SlotKV
from softtokens.models.prefix import PromptStates


class Recompute:
    """hidden_states: [rows, seq, dim] to [rows, seq, dim], causal, so that padding on the right does no harm."""

    def __init__(self, hidden_states: Callable[[Tensor], Tensor], context_length: int):
        self._hidden_states = hidden_states
        self._context_length = context_length

    def prompt_states(self, inputs: Tensor, lengths: Tensor) -> PromptStates:
        rows = torch.arange(len(inputs), device=inputs.device)
        hidden = self._hidden_states(inputs)[rows, lengths - 1]
        return PromptStates(hidden, {0: (inputs[:, None], inputs[:, None, :, :0])}, lengths)

    def step(self, inputs: Tensor, positions: Tensor, kv: SlotKV, view: int) -> Tensor:
        rows = torch.arange(len(inputs), device=inputs.device)
        fed = kv.layers[0][0][: len(inputs), 0]
        fed[rows, positions] = inputs.to(fed.dtype)
        return self._hidden_states(fed[:, : min(view, self._context_length)])[rows, positions]

    def continuation(self, inputs: Tensor, prompts: PromptStates, prompt_of_row: Tensor) -> Tensor:
        fed = prompts.layers[0][0][prompt_of_row, 0]
        rows = torch.arange(len(inputs), device=inputs.device)[:, None]
        positions = prompts.lengths[prompt_of_row][:, None] + torch.arange(inputs.shape[1], device=inputs.device)
        room = fed.new_zeros(len(inputs), inputs.shape[1], fed.shape[2])
        whole = torch.cat((fed, room), dim=1).index_put((rows, positions), inputs.to(fed.dtype))
        hidden = self._hidden_states(whole[:, : self._context_length])
        return hidden[rows, positions.clamp(max=hidden.shape[1] - 1)]  # positions beyond the context are padding
