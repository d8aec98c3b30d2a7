"""Gumbel-softmax thoughts: noisy log-probabilities choose a few tokens and weigh them.

    s_v = log p_v + Gumbel noise for every token,   p = softmax(logits / temperature)
    x = sum over the k largest s of w_i e_i,        w = softmax(s / weight_temperature)

The idea is that of SofT-GRPO (arXiv 2511.06411), with the exact density of what is drawn: selection included, no
truncation, no clipping. A common shift of all s changes no weight, so the action is the tokens I and the differences
d_i = s_i - max s. Its density, the shift integrated out and with d = min d for all tokens not selected, is

    log f = log (k - 1)! + sum over I of (log p_i - d_i) - k log sum over v of exp(log p_v - d_v)

With k = 1 this is log p: the token is that of hard thoughts, from the same random numbers. For any k it is the heaviest
token here, so as weight_temperature goes to 0 thoughts become hard ones; the score, averaged over everything but the
token, is the token's score.

Noise for a whole vocabulary need not be drawn: exp(-s) are arrival times of independent Poisson processes with rates p,
so the k largest s are tokens drawn without replacement, with exponential gaps between them.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from softtokens.config.thought import ThoughtConfig
from softtokens.ops.mixture import Concentration, tempered_log_softmax
from softtokens.ops.mixture import draw as draw_tokens_of
from softtokens.ops.random import StepKeys
from softtokens.ops.vocabulary import Vocabulary
from softtokens.thoughts import selected
from softtokens.thoughts.base import (
    Draw,
    Thought,
    require_at_least_one,
    require_event,
)
from softtokens.thoughts.gaussian import require_positive
from softtokens.thoughts.soft_thinking import SoftThinking


@dataclasses.dataclass(frozen=True)
class Gumbel(selected.SelectedThought):
    """top_k: number of tokens fed. temperature: of the logits that noise is added to. weight_temperature: of the
    softmax over noisy log-probabilities; toward 0 one token gets all the weight."""

    top_k: int
    weight_temperature: float
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require_positive("temperature", self.temperature)
        require_positive("weight_temperature", self.weight_temperature)
        require_at_least_one("top_k", self.top_k)

    def at(
        self,
        hidden: Float[Tensor, "rows dim"],
        vocabulary: Vocabulary,
        logits: Float[Tensor, "rows vocab"] | None = None,
    ) -> GumbelDistribution:
        logits = vocabulary.logits(hidden) if logits is None else logits
        return GumbelDistribution(logits, self, vocabulary)


@dataclasses.dataclass(frozen=True)
class GumbelDistribution(selected.SelectedDistribution):
    """Gumbel-top-k; event shape (vocab,), see `selected`. Densities are those of the differences d."""

    logits: Float[Tensor, "rows vocab"]
    thought: Gumbel
    vocabulary: Vocabulary

    @property
    def concentration(self) -> Concentration:
        return Concentration.of(self.logits, self.thought.temperature)

    @property
    def mean(self) -> Float[Tensor, "rows vocab"]:
        raise ValueError("the mean of a Gumbel thought has no closed form")

    @property
    def mode(self) -> Float[Tensor, "rows vocab"]:
        """The value at the most likely noise, which is none."""
        return self._without_noise.at(self.logits, self.vocabulary, self.logits).mode

    @property
    def _without_noise(self) -> SoftThinking:
        return SoftThinking(self.thought.top_k, self.thought.temperature * self.thought.weight_temperature)

    def entropy(self) -> Float[Tensor, "rows"]:
        raise ValueError("the entropy of a Gumbel thought has no closed form; average -log_prob over samples")

    def _drawn(self, keys: StepKeys) -> tuple[Int[Tensor, "rows top_k"], Float[Tensor, "rows top_k"]]:
        """Tokens and log weights, the heaviest first."""
        k = self.thought.top_k
        selected.require_tokens(k, self.vocabulary)
        uniforms = keys.uniforms(2 * k)
        waiting = -(uniforms[:, k:] + 2.0**-53).log()  # standard exponential, never 0
        left = self.logits - self.logits.amax(-1, keepdim=True)
        if self.thought.temperature != 1.0:
            left = left / self.thought.temperature
        tokens: list[Tensor] = []
        log_times: list[Tensor] = []
        for i in range(k):
            peak = left.amax(-1, keepdim=True)
            rates = (left - peak).exp()
            tokens.append(draw_tokens_of(rates, uniforms[:, i]))
            gap = waiting[:, i].log() - (rates.sum(-1).log() + peak[:, 0])
            log_times.append(torch.logaddexp(log_times[-1], gap) if i else gap)
            left = left.scatter(-1, tokens[-1][:, None], float("-inf"))
        log_weights = torch.log_softmax(-torch.stack(log_times, -1) / self.thought.weight_temperature, dim=-1)
        return torch.stack(tokens, -1), log_weights.to(self.logits.dtype)

    def log_prob(self, value: Tensor) -> Float[Tensor, "rows"]:
        require_event(value, *self.logits.shape)
        is_fed = value > float("-inf")
        noisy = self.thought.weight_temperature * value.to(self.logits.dtype)  # up to the shift, which cancels
        least = torch.where(is_fed, noisy, float("inf")).amin(-1, keepdim=True)
        excess = tempered_log_softmax(self.logits, self.thought.temperature) - torch.where(is_fed, noisy, least)
        k = self.thought.top_k
        return math.lgamma(k) + torch.where(is_fed, excess, 0.0).sum(-1) - k * excess.logsumexp(-1)

    def draw(self, keys: StepKeys) -> Draw:
        with torch.no_grad():
            tokens, log_weights = self._drawn(keys)
            log_prob = self.log_prob(selected.as_value(tokens, log_weights, self.logits))
            return Draw(tokens[:, 0], log_prob, keys, {"tokens": tokens, "log_weights": log_weights})

    def surrogate(self, draw: Draw) -> Float[Tensor, "rows"]:
        return self.log_prob(selected.as_value(draw.stored["tokens"], draw.stored["log_weights"], self.logits))


def build(config: ThoughtConfig, embedding_rms: float, greedy: bool) -> Thought:
    """Greedy: without noise."""
    del embedding_rms
    if greedy:
        return SoftThinking(config.top_k, config.temperature * config.weight_temperature)
    return Gumbel(config.top_k, config.weight_temperature, config.temperature)
