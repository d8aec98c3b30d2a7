"""Prompts run once; the rollouts of a problem share their keys and values, in training as in sampling.

Passed to a transformers model instead of its cache, like `kv.SlotKV`, but differentiable.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class PromptStates:
    """The states of prompts after running them.

    hidden: [prompts, dim], the state of each prompt's last position. layers: keys and values per layer, each [prompts,
    kv_heads, longest, head_dim], meaningless beyond a prompt's length. lengths: int64 [prompts].
    """

    hidden: Tensor
    layers: dict[int, tuple[Tensor, Tensor]]
    lengths: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        return [self.hidden, *(tensor for pair in self.layers.values() for tensor in pair)]

    def only(self, prompt: int, length: int) -> PromptStates:
        """A copy of what is known of one prompt of that length."""
        one = slice(prompt, prompt + 1)
        layers = {
            layer: (keys[one, :, :length].clone(), values[one, :, :length].clone())
            for layer, (keys, values) in self.layers.items()
        }
        return PromptStates(self.hidden[one].clone(), layers, self.lengths[one].clone())

    def as_leaves(self) -> PromptStates:
        """The same states, detached as leaves: gradients with respect to them can be summed over parts of a batch
        and propagated through the prompts once."""
        layers = {
            layer: (keys.detach().requires_grad_(), values.detach().requires_grad_())
            for layer, (keys, values) in self.layers.items()
        }
        return PromptStates(self.hidden.detach().requires_grad_(), layers, self.lengths)


class PrefixKV:
    """Stands in for a cache: collects the keys and values of prompts, or puts those of each row's prompt in front."""

    def __init__(self, prompts: PromptStates | None = None, prompt_of_row: Tensor | None = None):
        self.prompts = prompts
        self.prompt_of_row = prompt_of_row
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        del args, kwargs
        if self.prompts is None or self.prompt_of_row is None:
            self.layers[layer_idx] = (key, value)
            return key, value
        keys, values = (x.index_select(0, self.prompt_of_row) for x in self.prompts.layers[layer_idx])
        return torch.cat((keys, key), dim=2), torch.cat((values, value), dim=2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Asked by some models even when position ids are given; the answer is not used then."""
        del layer_idx
        return 0 if self.prompts is None else int(self.prompts.lengths.max())
