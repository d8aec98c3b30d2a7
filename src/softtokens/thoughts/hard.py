"""A thought that is a token: what every language model does."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from softtokens.ops import streamed
from softtokens.ops.mixture import Concentration, draw_tokens, tempered_log_softmax, tempered_softmax
from softtokens.ops.random import StepKeys
from softtokens.ops.vocabulary import Vocabulary
from softtokens.thoughts.base import Draw, Scores, Thought, ThoughtDistribution, require_event


@dataclasses.dataclass(frozen=True)
class Hard(Thought):
    """Feed the embedding of a token drawn from softmax(logits / temperature); temperature 0 takes the arg-max."""

    temperature: float = 1.0
    is_drawn_token = True

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it must be 0 (greedy) or positive")

    def stores(self, dim: int) -> dict[str, tuple[int, torch.dtype]]:
        del dim
        return {}

    def fed(self, drawn: Draw, vocabulary: Vocabulary) -> Float[Tensor, "rows dim"]:
        return vocabulary.embed(drawn.token)

    def at(
        self,
        hidden: Float[Tensor, "rows dim"],
        vocabulary: Vocabulary,
        logits: Float[Tensor, "rows vocab"] | None = None,
    ) -> HardDistribution:
        logits = vocabulary.logits(hidden) if logits is None else logits
        return HardDistribution(logits, self.temperature, vocabulary)

    def score(
        self,
        hidden: Float[Tensor, "rows dim"],
        vocabulary: Vocabulary,
        drawn: Draw,
        expected_gradient: Float[Tensor, "rows"] | None = None,
    ) -> Scores:
        if self.temperature == 0:
            return super().score(hidden, vocabulary, drawn, expected_gradient)
        log_prob, soft = streamed.token_log_prob(
            vocabulary, hidden, drawn.token, self.temperature, expected_gradient=expected_gradient
        )
        return Scores(log_prob, log_prob.detach(), torch.full_like(soft.entropy, float("nan")), soft)


@dataclasses.dataclass(frozen=True)
class HardDistribution(ThoughtDistribution):
    """Categorical over the vocabulary; event shape ()."""

    logits: Float[Tensor, "rows vocab"]
    temperature: float
    vocabulary: Vocabulary

    @property
    def concentration(self) -> Concentration:
        return Concentration.of(self.logits, self.temperature)

    @property
    def mean(self) -> Int[Tensor, "rows"]:
        raise ValueError("tokens have no mean; the mean of their embeddings is that of a Gaussian thought")

    @property
    def mode(self) -> Int[Tensor, "rows"]:
        return self.shadow

    def entropy(self) -> Float[Tensor, "rows"]:
        if self.temperature == 0:
            return torch.zeros_like(self.logits[:, 0])
        p = tempered_softmax(self.logits, self.temperature)
        return -torch.xlogy(p, p).sum(-1)

    def sample(self, keys: StepKeys) -> Int[Tensor, "rows"]:
        with torch.no_grad():
            return draw_tokens(self.logits, self.temperature, keys)[0]

    def log_prob(self, value: Tensor) -> Float[Tensor, "rows"]:
        require_event(value, self.logits.shape[0])
        if self.temperature == 0:
            certain = torch.zeros_like(self.logits[:, 0])
            return certain.masked_fill(value != self.shadow, float("-inf"))
        return tempered_log_softmax(self.logits, self.temperature).gather(-1, value[:, None])[:, 0]

    def embed(self, value: Int[Tensor, "rows"]) -> Float[Tensor, "rows dim"]:
        return self.vocabulary.embed(value)

    def draw(self, keys: StepKeys) -> Draw:
        with torch.no_grad():
            token = self.sample(keys)
            return Draw(token, self.log_prob(token), keys, {})

    def surrogate(self, draw: Draw) -> Float[Tensor, "rows"]:
        return self.log_prob(draw.token)

    @torch.no_grad()
    def stored_log_prob(self, draw: Draw) -> Float[Tensor, "rows"]:
        return self.log_prob(draw.token)

    def noise_length(self, draw: Draw) -> Float[Tensor, "rows"]:
        return torch.zeros_like(self.logits[:, 0])

    def mismatch(self, draw: Draw) -> Float[Tensor, "rows"]:
        # the sampler's full distribution is not stored; the caller compares log-probabilities
        return torch.full_like(self.logits[:, 0], float("nan"))
