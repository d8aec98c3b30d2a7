"""What families share that feed a few tokens with weights: x = sum over the tokens of w_i e_i.

The tokens and the logarithms of their weights are stored, and the sum is computed from the present embeddings, through
which it has a gradient like any token. As a value, such a thought is [rows, vocab]: log weights, -inf for tokens
that are not fed. Logarithms, because weights far below the smallest float still have a density.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from softtokens.ops.random import StepKeys
from softtokens.ops.vocabulary import Vocabulary
from softtokens.thoughts.base import Draw, Thought, ThoughtDistribution
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


class SelectedThought(Thought):
    """Stores `stored_tokens` tokens and log weights, and feeds their sum."""

    top_k: int

    @property
    def stored_tokens(self) -> int:
        return self.top_k

    def stores(self, dim: int) -> dict[str, tuple[int, torch.dtype]]:
        del dim
        return {"tokens": (self.stored_tokens, torch.int64), "log_weights": (self.stored_tokens, torch.float32)}

    def fed(self, drawn: Draw, vocabulary: Vocabulary) -> Float[Tensor, "rows dim"]:
        return fed(drawn.stored, vocabulary)


def fed(stored: Mapping[str, Tensor], vocabulary: Vocabulary) -> Float[Tensor, "rows dim"]:
    embeddings = vocabulary.embed(stored["tokens"])
    return (stored["log_weights"].exp().to(embeddings.dtype)[..., None] * embeddings).sum(1)


class SelectedDistribution(ThoughtDistribution):
    """Over log weights; event shape (vocab,), see above."""

    vocabulary: Vocabulary

    @abc.abstractmethod
    def _drawn(self, keys: StepKeys) -> tuple[Int[Tensor, "rows top_k"], Float[Tensor, "rows top_k"]]:
        """Tokens and log weights."""

    def sample(self, keys: StepKeys) -> Float[Tensor, "rows vocab"]:
        with torch.no_grad():
            return as_value(*self._drawn(keys), self.logits)

    def embed(self, value: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows dim"]:
        return self.vocabulary.mix(value.exp())

    @torch.no_grad()
    def stored_log_prob(self, draw: Draw) -> Float[Tensor, "rows"]:
        return self.surrogate(draw)

    @torch.no_grad()
    def noise_length(self, draw: Draw) -> Float[Tensor, "rows"]:
        return (fed(draw.stored, self.vocabulary) - self.embed(self.mode)).norm(dim=-1)

    def mismatch(self, draw: Draw) -> Float[Tensor, "rows"]:
        return torch.full_like(self.logits[:, 0], float("nan"))  # the sampler's parameters are not stored


def as_value(
    tokens: Int[Tensor, "rows top_k"], log_weights: Float[Tensor, "rows top_k"], logits: Float[Tensor, "rows vocab"]
) -> Float[Tensor, "rows vocab"]:
    """The stored thought as a value of the distribution with these logits."""
    return torch.full_like(logits, float("-inf")).scatter(-1, tokens, log_weights.to(logits.dtype))
