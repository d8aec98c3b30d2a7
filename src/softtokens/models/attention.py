"""The attention function that models run with: torch's own, with grouped heads packed in decode steps.

For one query token the query heads that share a key head become the query positions of one attention call, so the
cache is never copied per query head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NAME = "softtokens"


def register() -> None:
    """Make the function known to transformers by NAME. Safe to call again."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [rows, heads, seq, head_dim], key and value [rows, kv_heads, view, head_dim], boolean mask or None (causal)
    broadcastable to [rows, 1, seq, view]. Returns [rows, seq, heads, head_dim]."""
    if kwargs.get("softcap") is not None:
        return _capped(query, key, value, attention_mask, scaling, kwargs["softcap"]), None
    rows, heads, seq, head_dim = query.shape
    kv_heads = key.shape[1]
    attend = torch.nn.functional.scaled_dot_product_attention
    if seq == 1 and heads != kv_heads:
        packed = query.reshape(rows, kv_heads, heads // kv_heads, head_dim)
        out = attend(packed, key, value, attn_mask=attention_mask, scale=scaling).reshape(rows, heads, 1, head_dim)
    else:
        causal = attention_mask is None and seq > 1
        # a branch, not the value: compiled for all shapes the comparison is no bool, and this function wants one
        grouped = {"enable_gqa": True} if heads != kv_heads else {}
        out = attend(
            query,
            key,
            value,
            attn_mask=attention_mask,
            is_causal=causal,
            scale=scaling,
            **grouped,
        )
    return out.transpose(1, 2).contiguous(), None


def _capped(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None, cap: float
) -> Tensor:
    """Attention whose logits pass through cap * tanh(. / cap), as in Gemma 2; no fast kernel does that."""
    rows, heads, seq, head_dim = query.shape
    packed = query.reshape(rows, key.shape[1], -1, seq, head_dim) * (head_dim**-0.5 if scaling is None else scaling)
    scores = cap * torch.tanh(packed @ key[:, :, None].transpose(-1, -2) / cap)
    if mask is None:
        mask = torch.ones(seq, key.shape[2], dtype=torch.bool, device=query.device).tril(key.shape[2] - seq)
    else:
        mask = mask[:, :, None]
    weights = torch.softmax(scores.masked_fill(~mask, float("-inf")).float(), dim=-1).to(value.dtype)
    out = (weights @ value[:, :, None]).reshape(rows, heads, seq, head_dim)
    return out.transpose(1, 2).contiguous()
