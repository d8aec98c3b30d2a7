"""Dirichlet thoughts: the likeliest tokens with random weights around their probabilities.

    x = sum over the top k of w_i e_i,   w ~ Dirichlet(concentration * p),   p = softmax of their logits / temperature

Which tokens these are is decided by the logits without noise and stored, so later parameters do not decide it again.
The action is the log-ratios of the weights, in which the density is finite however small a weight is:

    log f = log Gamma(concentration) + sum over i of (a_i log w_i - log Gamma(a_i)),   a_i = concentration * p_i

(the usual density of w times the product of the weights, a factor without parameters; the mode is w = p). With a small
concentration one token has nearly all the weight, token i with probability p_i; with a large one w is p.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from softtokens.config.thought import ThoughtConfig
from softtokens.ops.mixture import Concentration, tempered_log_softmax
from softtokens.ops.random import StepKeys
from softtokens.ops.vocabulary import Vocabulary
from softtokens.thoughts import selected
from softtokens.thoughts.base import (
    Draw,
    Thought,
    require_at_least_one,
    require_event,
)
from softtokens.thoughts.divergence import register
from softtokens.thoughts.gaussian import require_positive
from softtokens.thoughts.soft_thinking import SoftThinking

_LEAST = math.log(1e-30)  # of log a_i: such a token has no weight, and a_i log w_i stays finite in float32


@dataclasses.dataclass(frozen=True)
class Dirichlet(selected.SelectedThought):
    """top_k: number of tokens fed. concentration: sum of the Dirichlet's parameters; large means little noise."""

    top_k: int
    concentration: float
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require_positive("temperature", self.temperature)
        require_positive("concentration", self.concentration)
        require_at_least_one("top_k", self.top_k)

    def at(
        self,
        hidden: Float[Tensor, "rows dim"],
        vocabulary: Vocabulary,
        logits: Float[Tensor, "rows vocab"] | None = None,
    ) -> DirichletDistribution:
        logits = vocabulary.logits(hidden) if logits is None else logits
        return DirichletDistribution(logits, self, vocabulary)


@dataclasses.dataclass(frozen=True)
class DirichletDistribution(selected.SelectedDistribution):
    """Dirichlet over the weights of the likeliest tokens; event shape (vocab,), see `selected`. Densities are those of
    log-ratios of weights."""

    logits: Float[Tensor, "rows vocab"]
    thought: Dirichlet
    vocabulary: Vocabulary

    @property
    def concentration(self) -> Concentration:
        return Concentration.of(self.logits, self.thought.temperature)

    @property
    def tokens(self) -> Int[Tensor, "rows top_k"]:
        """The likeliest."""
        return selected.top_tokens(self.logits, self.thought.top_k, self.vocabulary)

    def log_parameters(self, tokens: Int[Tensor, "rows top_k"]) -> Float[Tensor, "rows top_k"]:
        """log a_i."""
        log_p = tempered_log_softmax(self.logits.gather(-1, tokens), self.thought.temperature)
        return (log_p + math.log(self.thought.concentration)).clamp(min=_LEAST)

    @property
    def mean(self) -> Float[Tensor, "rows vocab"]:
        """Of the log weights."""
        a = self.log_parameters(self.tokens).exp()
        log_weights = a.digamma() - math_digamma(self.thought.concentration, like=a)
        return selected.as_value(self.tokens, log_weights, self.logits)

    @property
    def mode(self) -> Float[Tensor, "rows vocab"]:
        return (
            SoftThinking(self.thought.top_k, self.thought.temperature)
            .at(self.logits, self.vocabulary, self.logits)
            .mode
        )

    def entropy(self) -> Float[Tensor, "rows"]:
        log_a = self.log_parameters(self.tokens)
        a, total = log_a.exp(), self.thought.concentration
        expected = a.digamma() - math_digamma(total, like=a)
        return (log_gamma(log_a) - a * expected).sum(-1) - math.lgamma(total)

    def _drawn(self, keys: StepKeys) -> tuple[Int[Tensor, "rows top_k"], Float[Tensor, "rows top_k"]]:
        tokens = self.tokens
        log_gammas = keys.log_gammas(self.log_parameters(tokens).double().exp())
        return tokens, torch.log_softmax(log_gammas, dim=-1).to(self.logits.dtype)

    def log_prob(self, value: Tensor) -> Float[Tensor, "rows"]:
        require_event(value, *self.logits.shape)
        log_weights, tokens = value.topk(self.thought.top_k, dim=-1)
        return self._log_density(tokens, log_weights)

    def _log_density(self, tokens: Tensor, log_weights: Tensor) -> Float[Tensor, "rows"]:
        log_a = self.log_parameters(tokens)
        moved = log_a.exp() * log_weights.to(log_a.dtype) - log_gamma(log_a)
        return moved.sum(-1) + math.lgamma(self.thought.concentration)

    def draw(self, keys: StepKeys) -> Draw:
        """The token is the heaviest one."""
        with torch.no_grad():
            tokens, log_weights = self._drawn(keys)
            heaviest = tokens.gather(-1, log_weights.argmax(-1, keepdim=True))[:, 0]
            log_prob = self._log_density(tokens, log_weights)
            return Draw(heaviest, log_prob, keys, {"tokens": tokens, "log_weights": log_weights})

    def surrogate(self, draw: Draw) -> Float[Tensor, "rows"]:
        return self._log_density(draw.stored["tokens"], draw.stored["log_weights"])


def log_gamma(log_a: Float[Tensor, "rows top_k"]) -> Float[Tensor, "rows top_k"]:
    """log Gamma(a), accurate in value and gradient for any small a: log Gamma(1 + a) - log a."""
    return (1 + log_a.exp()).lgamma() - log_a


def math_digamma(x: float, like: Tensor) -> Tensor:
    return torch.full_like(like[:, :1], x).digamma()


@register(DirichletDistribution, DirichletDistribution)
def _of_weights(p: DirichletDistribution, q: DirichletDistribution) -> Tensor:
    """Infinite where other tokens are fed, as the two share no value there."""
    if p.thought.top_k != q.thought.top_k:
        raise ValueError(f"top_k {p.thought.top_k} and {q.thought.top_k} differ; their values do not compare")
    tokens = p.tokens
    log_a, log_b = p.log_parameters(tokens), q.log_parameters(tokens)
    a, b, total = log_a.exp(), log_b.exp(), p.thought.concentration
    expected = a.digamma() - math_digamma(total, like=a)  # of log w under p
    divergence = (log_gamma(log_b) - log_gamma(log_a) + (a - b) * expected).sum(-1)
    divergence = divergence + math.lgamma(total) - math.lgamma(q.thought.concentration)
    same = (tokens.sort(-1).values == q.tokens.sort(-1).values).all(-1)
    return divergence.masked_fill(~same, float("inf"))


def build(config: ThoughtConfig, embedding_rms: float, greedy: bool) -> Thought:
    """Greedy: without noise."""
    del embedding_rms
    if greedy:
        return SoftThinking(config.top_k, config.temperature)
    return Dirichlet(config.top_k, config.concentration, config.temperature)
