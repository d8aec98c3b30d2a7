"""Mixture of inputs: a sampled token, blended with the likeliest tokens the more uncertain the model is.

    x = (h sum over the top k of q_i e_i + (beta + 1 - h) e_y) / (beta + 1)        (arXiv 2505.14827)

y is drawn from softmax(logits / temperature), q is the same renormalised over the k likeliest tokens, and h in 0 .. 1
is the entropy of q over log k. The action is the token, the only thing that is random, so the log-probability is the
token's. The weights are stored: they are data.
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
from softtokens.thoughts.base import Draw, Scores, ThoughtDistribution, require_at_least_one
from softtokens.thoughts.divergence import kl, register
from softtokens.thoughts.gaussian import require_not_negative, require_positive
from softtokens.thoughts.hard import Hard, HardDistribution


@dataclasses.dataclass(frozen=True)
class MixtureOfInputs(selected.SelectedThought):
    """top_k: number of tokens blended with the sampled one. beta: 0 or more; large means nearly the sampled token.
    is_greedy: blend the arg-max token instead."""

    top_k: int
    beta: float
    temperature: float = 1.0
    is_greedy: bool = False

    def __post_init__(self) -> None:
        require_positive("temperature", self.temperature)
        require_not_negative("beta", self.beta)
        require_at_least_one("top_k", self.top_k)

    @property
    def of_token(self) -> Hard:
        return Hard(0.0 if self.is_greedy else self.temperature)

    @property
    def stored_tokens(self) -> int:
        return self.top_k + 1

    def at(
        self,
        hidden: Float[Tensor, "rows dim"],
        vocabulary: Vocabulary,
        logits: Float[Tensor, "rows vocab"] | None = None,
    ) -> MixtureOfInputsDistribution:
        logits = vocabulary.logits(hidden) if logits is None else logits
        return MixtureOfInputsDistribution(logits, self, vocabulary)

    def score(
        self,
        hidden: Float[Tensor, "rows dim"],
        vocabulary: Vocabulary,
        drawn: Draw,
        expected_gradient: Float[Tensor, "rows"] | None = None,
    ) -> Scores:
        return self.of_token.score(hidden, vocabulary, drawn, expected_gradient)


@dataclasses.dataclass(frozen=True)
class MixtureOfInputsDistribution(ThoughtDistribution):
    """Categorical over the vocabulary; event shape ()."""

    logits: Float[Tensor, "rows vocab"]
    thought: MixtureOfInputs
    vocabulary: Vocabulary

    @property
    def of_token(self) -> HardDistribution:
        return HardDistribution(self.logits, self.thought.of_token.temperature, self.vocabulary)

    @property
    def concentration(self) -> Concentration:
        return self.of_token.concentration

    @property
    def mean(self) -> Int[Tensor, "rows"]:
        return self.of_token.mean

    @property
    def mode(self) -> Int[Tensor, "rows"]:
        return self.shadow

    def entropy(self) -> Float[Tensor, "rows"]:
        return self.of_token.entropy()

    def sample(self, keys: StepKeys) -> Int[Tensor, "rows"]:
        return self.of_token.sample(keys)

    def log_prob(self, value: Tensor) -> Float[Tensor, "rows"]:
        return self.of_token.log_prob(value)

    def embed(self, value: Int[Tensor, "rows"]) -> Float[Tensor, "rows dim"]:
        return selected.fed(self._blend(value), self.vocabulary)

    def _blend(self, token: Int[Tensor, "rows"]) -> dict[str, Tensor]:
        """What is stored: the likeliest tokens and the sampled one, which may be among them, with their weights."""
        k, beta = self.thought.top_k, self.thought.beta
        likeliest = selected.top_tokens(self.logits, k, self.vocabulary)
        log_q = tempered_log_softmax(self.logits.gather(-1, likeliest), self.thought.temperature)
        q = log_q.exp()
        h = (-torch.xlogy(q, q).sum(-1, keepdim=True) / math.log(max(k, 2))).clamp(0, 1)
        log_weights = torch.cat((h.log() + log_q, (beta + 1 - h).log()), dim=-1) - math.log(beta + 1)
        return {"tokens": torch.cat((likeliest, token[:, None]), dim=-1), "log_weights": log_weights}

    def draw(self, keys: StepKeys) -> Draw:
        with torch.no_grad():
            drawn = self.of_token.draw(keys)
            return Draw(drawn.token, drawn.log_prob, keys, self._blend(drawn.token))

    def surrogate(self, draw: Draw) -> Float[Tensor, "rows"]:
        return self.log_prob(draw.token)

    def stored_log_prob(self, draw: Draw) -> Float[Tensor, "rows"]:
        return self.of_token.stored_log_prob(draw)

    def noise_length(self, draw: Draw) -> Float[Tensor, "rows"]:
        return self.of_token.noise_length(draw)

    def mismatch(self, draw: Draw) -> Float[Tensor, "rows"]:
        return self.of_token.mismatch(draw)


@register(MixtureOfInputsDistribution, MixtureOfInputsDistribution)
def _of_sampled_tokens(p: MixtureOfInputsDistribution, q: MixtureOfInputsDistribution) -> Tensor:
    return kl(p.of_token, q.of_token)


def build(config: ThoughtConfig, embedding_rms: float, greedy: bool) -> MixtureOfInputs:
    del embedding_rms
    return MixtureOfInputs(config.top_k, config.moi_beta, config.temperature, greedy)
