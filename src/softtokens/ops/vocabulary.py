"""The two vocabulary-sized matrices of a language model, and the logits they give.

Logits are computed in float32 (float64 when a matrix is float64) whatever the model's dtype: in bfloat16 exact ties of
the two largest logits are common, and at small temperatures a tie decides everything (docs/method.md). Whoever wants
those ties asks for them with `rounding`.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Head and embedding table, as the model really uses them.

    head: logits = cap(scale * (hidden head^T + bias)). table: what a token feeds into the
    first block is `table_scale * table[token]` (Gemma scales). Rows that belong to no token of the tokenizer get logit
    -inf: those at or beyond `size`, and where token ids have holes those that are not in `owned`, ascending.
    rounding: the dtype that finished logits are rounded to; gradients pass as if they were not. thought_head: the
    parameters that the model's family of thoughts has of its own, if it has any (see `Thought.new_head`).
    """

    head: Float[Tensor, "vocab dim"]
    table: Float[Tensor, "vocab dim"]
    size: int
    bias: Float[Tensor, "vocab"] | None = None
    logit_scale: float = 1.0
    softcap: float | None = None
    table_scale: float = 1.0
    owned: Int[Tensor, "tokens"] | None = None
    rounding: torch.dtype | None = None
    thought_head: nn.Module | None = None

    def logits(self, hidden: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows vocab"]:
        """At least float32."""
        logits, _ = self.logits_and_slope(hidden)
        if self.size < logits.shape[-1]:
            beyond = torch.arange(logits.shape[-1], device=logits.device) >= self.size
            logits = logits.masked_fill(beyond, float("-inf"))
        return logits

    def logits_and_slope(
        self, hidden: Float[Tensor, "rows dim"]
    ) -> tuple[Float[Tensor, "rows vocab"], Float[Tensor, "rows vocab"] | float]:
        """Logits of all rows of the head (-inf in holes), and the derivative of each with respect to hidden head^T: a
        number, or [rows, vocab] where logits are capped."""
        logits = product(hidden, self.head.T)
        if self.bias is not None:
            logits = logits + full_precision(self.bias)
        if self.logit_scale != 1.0:
            logits = logits * self.logit_scale
        slope: Tensor | float = self.logit_scale
        if self.softcap is not None:
            capped = torch.tanh(logits / self.softcap)
            logits, slope = self.softcap * capped, self.logit_scale * (1 - capped.square())
        if self.rounding is not None:
            logits = rounded(logits, self.rounding)
        return logits if self.owned is None else self.to_rows(self.of_tokens(logits)), slope

    @property
    def may_be_infinite(self) -> bool:
        """Whether logits of the known rows may be -inf."""
        return self.bias is not None or self.owned is not None

    @property
    def tokens(self) -> Int[Tensor, "tokens"]:
        """The rows that belong to a token, ascending."""
        return torch.arange(self.size, device=self.head.device) if self.owned is None else self.owned

    def of_tokens(self, logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows tokens"]:
        """Without what belongs to no token."""
        return logits[:, : self.size] if self.owned is None else logits.index_select(-1, self.owned)

    def to_rows(self, of_tokens: Float[Tensor, "rows tokens"]) -> Float[Tensor, "rows vocab"]:
        """Back from `of_tokens`: -inf for what belongs to no token."""
        logits = of_tokens.new_full((len(of_tokens), len(self.head)), float("-inf"))
        return logits.index_copy(-1, self.tokens, of_tokens)

    def embed(self, ids: Int[Tensor, "*ids"]) -> Float[Tensor, "*ids dim"]:
        """Input embeddings of token ids, at least float32."""
        return full_precision(torch.nn.functional.embedding(ids, self.table)) * self.table_scale

    def mix(self, weights: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows dim"]:
        """Weighted mean of the input embeddings."""
        return product(weights, self.table) * self.table_scale

    def of_known_tokens(self) -> Vocabulary:
        """Without the rows at or beyond `size`."""
        if self.size == self.head.shape[0]:
            return self
        bias = None if self.bias is None else self.bias[: self.size]
        return dataclasses.replace(self, head=self.head[: self.size], table=self.table[: self.size], bias=bias)

    def for_repeated_use(self) -> Vocabulary:
        """Detached, and on the CPU in full precision, which products would otherwise have to convert to each time."""
        matrices = (self.head.detach(), self.table.detach())
        if not self.head.is_cuda:
            tied = self.head.data_ptr() == self.table.data_ptr()
            head = full_precision(matrices[0])
            matrices = (head, head if tied else full_precision(matrices[1]))
        bias = None if self.bias is None else self.bias.detach()
        return dataclasses.replace(self, head=matrices[0], table=matrices[1], bias=bias)

    def with_frozen_table(self) -> Vocabulary:
        """The same, but gradients of the mixture do not reach the table (they still reach a tied head)."""
        return dataclasses.replace(self, table=self.table.detach())


def product(
    rows: Float[Tensor, "rows inner"], matrix: Float[Tensor, "inner columns"], *, rounds: bool = False
) -> Float[Tensor, "rows columns"]:
    """rows @ matrix in at least float32, also where the matrix is stored in half precision.

    CUDA multiplies half precision with float32 sums; there float32 rows are split into a half that fits the matrix's
    format and the rest, so nothing of them is lost. rounds: rows may be rounded to the matrix's format instead, which
    is twice as fast. Gradients may: those of the layers below are in that format anyway.
    """
    if matrix.is_cuda and matrix.dtype in (torch.bfloat16, torch.float16) and not torch.is_grad_enabled():
        high = rows.to(matrix.dtype)
        if rounds or rows.dtype == matrix.dtype:
            return torch.mm(high, matrix, out_dtype=torch.float32)
        low = (rows - high.float()).to(matrix.dtype)
        return sum(torch.mm(torch.cat((high, low)), matrix, out_dtype=torch.float32).split(len(rows)))
    return full_precision(rows) @ full_precision(matrix).to(full_precision(rows).dtype)


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest values that the dtype has, in x's own; gradients pass straight through."""
    value = x.detach().to(dtype).to(x.dtype)
    if not x.requires_grad:
        return value
    return x + (value - x.detach()).nan_to_num(nan=0.0)  # exact: the two are close; -inf stays


def full_precision(x: Tensor) -> Tensor:
    """float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()
