"""The fastest Llama we can write by hand for this one job: fused projections, caches of fixed size, rows in lockstep.

It knows none of what the library has to know (ragged prompts, rows that stop at different steps, stop phrases, named
random numbers, log-probabilities), so its speed is the ceiling that the library is measured against.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, scaled_dot_product_attention, silu


class Handwritten:
    """Decodes `rows` rollouts of equal length on the weights of `model`, a LlamaForCausalLM."""

    def __init__(self, model: Any, rows: int, capacity: int, *, compiles: bool):
        config = model.config
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = config.hidden_size // self.heads
        self.epsilon = config.rms_norm_eps
        self.table = model.get_input_embeddings().weight.detach()
        self.norm = model.model.norm.weight.detach()
        self.layers = [_fused(layer) for layer in model.model.layers]
        shape = (rows, self.kv_heads, capacity, self.head_dim)
        self.keys = [torch.zeros(shape) for _ in self.layers]
        self.values = [torch.zeros(shape) for _ in self.layers]
        inverse = 1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(0, self.head_dim, 2) / self.head_dim)
        angle = torch.outer(torch.arange(capacity), inverse).repeat(1, 2)
        self.cos, self.sin = angle.cos(), angle.sin()
        wrap = (lambda f: torch.compile(f, dynamic=True, fullgraph=True)) if compiles else (lambda f: f)
        self.feed, self._emit_soft, self._emit_hard = wrap(self.body), wrap(self._soft), wrap(self._hard)

    @torch.no_grad()
    def generate(
        self, prompts: Tensor, group: int, thoughts: int, forced: Tensor, answers: int, sigma: float | None
    ) -> tuple[Tensor, Tensor]:
        """Tokens [rows, steps] and thought vectors [rows, thoughts, dim]. prompts: int64 [problems, seq]; each runs
        once. sigma: noise of soft thoughts; None thinks in tokens."""
        rows, seq = len(prompts) * group, prompts.shape[1]
        hidden = self._prefill(prompts).repeat_interleave(group, 0)
        for cache in (*self.keys, *self.values):
            cache[:, :, :seq] = cache[: len(prompts), :, :seq].repeat_interleave(group, 0)
        steps = thoughts + len(forced) + answers
        tokens = torch.zeros(rows, steps, dtype=torch.int64)
        vectors = torch.zeros(rows, thoughts, self.table.shape[1])
        x, tokens[:, 0] = self._emit_soft(hidden, sigma) if sigma else self._emit_hard(hidden)
        for step in range(1, steps):
            end, at = seq + step, torch.tensor([seq + step - 1])
            if step - 1 < thoughts:
                vectors[:, step - 1] = x
            hidden = self.feed(x, at, end)
            if step < thoughts and sigma:
                x, tokens[:, step] = self._emit_soft(hidden, sigma)
            elif thoughts <= step < thoughts + len(forced):
                token = forced[step - thoughts].expand(rows)
                x, tokens[:, step] = embedding(token, self.table), token
            else:
                x, tokens[:, step] = self._emit_hard(hidden)
        return tokens, vectors

    def logits(self, hidden: Tensor) -> Tensor:
        return linear(_rms_norm(hidden, self.norm, self.epsilon), self.table)

    def _soft(self, hidden: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        logits = self.logits(hidden)
        mixed = (logits / 0.5).softmax(-1) @ self.table
        return mixed + sigma * torch.randn_like(mixed), logits.argmax(-1)

    def _hard(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        cumulative = self.logits(hidden).softmax(-1).cumsum(-1)
        target = torch.rand(len(cumulative), 1) * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, target).clamp(max=cumulative.shape[1] - 1)[:, 0]
        return embedding(token, self.table), token

    def body(self, x: Tensor, at: Tensor, end: int) -> Tensor:
        """Feed x [rows, dim] at position `at`, int64 [1], which is end - 1; the state before the last norm."""
        rows, cos, sin = x.shape[0], self.cos[at], self.sin[at]
        for (norm, qkv, out, norm2, gate_up, down), keys, values in zip(
            self.layers, self.keys, self.values, strict=True
        ):
            projected = linear(_rms_norm(x, norm, self.epsilon), qkv).view(rows, -1, self.head_dim)
            q, k, v = projected.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
            q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
            keys.index_copy_(2, at, k[:, :, None])
            values.index_copy_(2, at, v[:, :, None])
            packed = q.reshape(rows, self.kv_heads, -1, self.head_dim)
            attended = scaled_dot_product_attention(packed, keys[:, :, :end], values[:, :, :end])
            x = x + linear(attended.reshape(rows, -1), out)
            gate, up = linear(_rms_norm(x, norm2, self.epsilon), gate_up).chunk(2, -1)
            x = x + linear(silu(gate) * up, down)
        return x

    def _prefill(self, prompts: Tensor) -> Tensor:
        """Run the prompts, keys and values to the leading rows; the state of each last position."""
        count, seq = prompts.shape
        x = embedding(prompts, self.table)
        cos, sin = self.cos[:seq, None], self.sin[:seq, None]
        for (norm, qkv, out, norm2, gate_up, down), keys, values in zip(
            self.layers, self.keys, self.values, strict=True
        ):
            projected = linear(_rms_norm(x, norm, self.epsilon), qkv).view(count, seq, -1, self.head_dim)
            q, k, v = projected.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
            q, k, v = (y.transpose(1, 2) for y in (_rotate(q, cos, sin), _rotate(k, cos, sin), v))
            keys[:count, :, :seq], values[:count, :, :seq] = k, v
            attended = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            x = x + linear(attended.transpose(1, 2).reshape(count, seq, -1), out)
            gate, up = linear(_rms_norm(x, norm2, self.epsilon), gate_up).chunk(2, -1)
            x = x + linear(silu(gate) * up, down)
        return x[:, -1]


def _fused(layer: Any) -> tuple[Tensor, ...]:
    attention, mlp = layer.self_attn, layer.mlp
    weights = (
        layer.input_layernorm.weight,
        torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]),
        attention.o_proj.weight,
        layer.post_attention_layernorm.weight,
        torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
        mlp.down_proj.weight,
    )
    return tuple(weight.detach() for weight in weights)


def _rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on the last axis, halves against halves."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin
