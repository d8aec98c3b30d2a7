"""Soft thinking: the mixture of the `top_k` likeliest tokens, without randomness.

    x = sum over the top k of w_i e_i,   w = softmax of their logits / temperature         (arXiv 2505.15778)

Nothing is drawn, so there is no likelihood and nothing to learn from: it is a way to evaluate. It is also what Gumbel
and Dirichlet thoughts are without their noise.
"""

from __future__ import annotations

import dataclasses
from typing import NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from softtokens.config.thought import ThoughtConfig
from softtokens.ops.mixture import Concentration, tempered_log_softmax
from softtokens.ops.random import StepKeys
from softtokens.ops.vocabulary import Vocabulary
from softtokens.thoughts import selected
from softtokens.thoughts.base import Draw, require_at_least_one
from softtokens.thoughts.gaussian import require_positive


@dataclasses.dataclass(frozen=True)
class SoftThinking(selected.SelectedThought):
    top_k: int
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require_positive("temperature", self.temperature)
        require_at_least_one("top_k", self.top_k)

    def at(
        self,
        hidden: Float[Tensor, "rows dim"],
        vocabulary: Vocabulary,
        logits: Float[Tensor, "rows vocab"] | None = None,
    ) -> SoftThinkingDistribution:
        logits = vocabulary.logits(hidden) if logits is None else logits
        return SoftThinkingDistribution(logits, self, vocabulary)


@dataclasses.dataclass(frozen=True)
class SoftThinkingDistribution(selected.SelectedDistribution):
    """One value; event shape (vocab,), see `selected`."""

    logits: Float[Tensor, "rows vocab"]
    thought: SoftThinking
    vocabulary: Vocabulary

    @property
    def concentration(self) -> Concentration:
        return Concentration.of(self.logits, self.thought.temperature)

    @property
    def mean(self) -> Float[Tensor, "rows vocab"]:
        return self.mode

    @property
    def mode(self) -> Float[Tensor, "rows vocab"]:
        return selected.as_value(*self._chosen(), self.logits)

    def _drawn(self, keys: StepKeys) -> tuple[Tensor, Tensor]:
        del keys
        return self._chosen()

    def _chosen(self) -> tuple[Tensor, Tensor]:
        tokens = selected.top_tokens(self.logits, self.thought.top_k, self.vocabulary)
        return tokens, tempered_log_softmax(self.logits.gather(-1, tokens), self.thought.temperature)

    def entropy(self) -> NoReturn:
        _refuse()

    def log_prob(self, value: Tensor) -> NoReturn:
        del value
        _refuse()

    def draw(self, keys: StepKeys) -> Draw:
        with torch.no_grad():
            tokens, log_weights = self._chosen()
            nothing = torch.zeros_like(log_weights[:, 0])
            return Draw(self.shadow, nothing, keys, {"tokens": tokens, "log_weights": log_weights})

    def surrogate(self, draw: Draw) -> NoReturn:
        del draw
        _refuse()

    def stored_log_prob(self, draw: Draw) -> NoReturn:
        del draw
        _refuse()

    def noise_length(self, draw: Draw) -> Float[Tensor, "rows"]:
        return torch.zeros_like(self.logits[:, 0])


def _refuse() -> NoReturn:
    raise ValueError("soft thinking draws nothing, so it has no likelihood; train a family that does")


def build(config: ThoughtConfig, embedding_rms: float, greedy: bool) -> SoftThinking:
    del embedding_rms, greedy
    return SoftThinking(config.top_k, config.temperature)
