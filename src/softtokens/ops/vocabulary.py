"""The two vocabulary-sized matrices of a language model, and the logits they give.

Logits are computed in float32 (float64 when a matrix is float64) whatever the model's dtype: in bfloat16 exact ties of
the two largest logits are common, and at small temperatures a tie decides everything (docs/method.md).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Head and embedding table, as the model really uses them.

    head: [vocab, dim], logits = cap(scale * (hidden head^T + bias)). table: [vocab, dim], what a token feeds into the
    first block is `table_scale * table[token]` (Gemma scales). size: rows at or beyond it belong to no token of the
    tokenizer and get logit -inf.
    """

    head: Tensor
    table: Tensor
    size: int
    bias: Tensor | None = None
    logit_scale: float = 1.0
    softcap: float | None = None
    table_scale: float = 1.0

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, dim] to [rows, vocab], at least float32."""
        logits = full_precision(hidden) @ full_precision(self.head).T
        if self.bias is not None:
            logits = logits + full_precision(self.bias)
        logits = logits * self.logit_scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        if self.size < logits.shape[-1]:
            beyond = torch.arange(logits.shape[-1], device=logits.device) >= self.size
            logits = logits.masked_fill(beyond, float("-inf"))
        return logits

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings of token ids, at least float32: [*ids, dim]."""
        return full_precision(torch.nn.functional.embedding(ids, self.table)) * self.table_scale

    def mix(self, weights: Tensor) -> Tensor:
        """Weighted mean of the input embeddings: [rows, vocab] to [rows, dim]."""
        return weights @ full_precision(self.table).to(weights.dtype) * self.table_scale

    def with_frozen_table(self) -> Vocabulary:
        """The same, but gradients of the mixture do not reach the table (they still reach a tied head)."""
        return dataclasses.replace(self, table=self.table.detach())


def full_precision(x: Tensor) -> Tensor:
    """float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()
