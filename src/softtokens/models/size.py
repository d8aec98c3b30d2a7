"""The sizes of a model that determine its memory and work."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from softtokens.models.blocks import known_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclasses.dataclass(frozen=True)
class ModelSize:
    """Counted in numbers, not bytes; tied parameters once.

    dim, inner, kv_dim: width of the hidden states, of the feed-forward layer, and of one position's keys. parameters:
    all of them; trained: those that take a gradient; largest: of the largest single one. root: those outside of the
    blocks (embedding, head, last norm); block: the largest block.
    """

    layers: int
    dim: int
    inner: int
    kv_dim: int
    vocab: int
    tied: bool
    parameters: int
    trained: int
    largest: int
    root: int
    block: int

    @staticmethod
    def of(model: PreTrainedModel) -> ModelSize:
        """The size of a model, which may be on the meta device."""
        config = model.config.get_text_config()
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        of_blocks = [sum(p.numel() for p in block.parameters()) for block in known_blocks(model)]
        head, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
        queries = getattr(config, "num_attention_heads", None) or 1  # None: a model without attention
        heads = getattr(config, "num_key_value_heads", None) or queries
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // queries
        return ModelSize(
            layers=config.num_hidden_layers,
            dim=config.hidden_size,
            inner=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            kv_dim=heads * head_dim,
            vocab=head.shape[0],
            tied=head is table,
            parameters=sum(sizes.values()),
            trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
            largest=max(sizes.values()),
            root=sum(sizes.values()) - sum(of_blocks),
            block=max(of_blocks, default=0),
        )

    def cache_bytes(self, positions: int, dtype: torch.dtype) -> int:
        """Bytes of the keys and values of one row."""
        return 2 * self.layers * self.kv_dim * positions * dtype.itemsize

    def activation_bytes(self, dtype: torch.dtype, *, checkpointed: bool = False) -> int:
        """Bytes that one position holds between the forward and the backward pass: per layer about 11 vectors of the
        hidden and 4 of the inner size in the model's precision (counted for Llama and Qwen2: 9.6 to 10.3 and 4),
        plus the keys and values of the prompt, which are prepended to each row's own. checkpointed: the bytes of one
        layer, plus the inputs of the others."""
        layer = (11 * self.dim + 4 * self.inner) * dtype.itemsize
        kept = layer + self.layers * self.dim * dtype.itemsize if checkpointed else self.layers * layer
        return kept + self.cache_bytes(1, dtype)
