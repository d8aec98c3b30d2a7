"""What families share that feed a few tokens with weights: x = sum over the tokens of w_i e_i.

The tokens and the logarithms of their weights are stored, and the sum is computed from the present embeddings, through
which it has a gradient like any token. As a value, such a thought is [rows, vocab]: log weights, -inf for tokens
that are not fed. Logarithms, because weights far below the smallest float still have a density.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from softtokens.ops.vocabulary import Vocabulary
from softtokens.thoughts.base import Draw
from softtokens.types import UserError


def top_tokens(logits: Float[Tensor, "rows vocab"], top_k: int, vocabulary: Vocabulary) -> Int[Tensor, "rows top_k"]:
    """The largest logits."""
    require_tokens(top_k, vocabulary)
    return logits.detach().topk(top_k, dim=-1).indices


def require_tokens(top_k: int, vocabulary: Vocabulary) -> None:
    """Raise UserError if the vocabulary has fewer tokens."""
    most = vocabulary.size if vocabulary.owned is None else len(vocabulary.owned)
    if top_k > most:
        raise UserError(f"top_k is {top_k}; it must be at most {most}, the tokens of the vocabulary")


def stores(top_k: int) -> dict[str, tuple[int, torch.dtype]]:
    return {"tokens": (top_k, torch.int64), "log_weights": (top_k, torch.float32)}


def fed(drawn: Draw, vocabulary: Vocabulary) -> Float[Tensor, "rows dim"]:
    weights = drawn.stored["log_weights"].exp()
    embeddings = vocabulary.embed(drawn.stored["tokens"])
    return (weights.to(embeddings.dtype)[..., None] * embeddings).sum(1)


def as_value(
    tokens: Int[Tensor, "rows top_k"], log_weights: Float[Tensor, "rows top_k"], logits: Float[Tensor, "rows vocab"]
) -> Float[Tensor, "rows vocab"]:
    """The stored thought as a value of the distribution with these logits."""
    return torch.full_like(logits, float("-inf")).scatter(-1, tokens, log_weights.to(logits.dtype))
