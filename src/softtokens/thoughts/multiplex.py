"""Several tokens at once: the mean of the embeddings of `width` tokens drawn independently.

    x = (e_1 + ... + e_K) / K,   y_1 ... y_K ~ softmax(logits / temperature)         (arXiv 2601.08808)

The action is the tuple of tokens, so its log-probability is the sum of theirs. The tokens are stored, and the mean is
computed from the present embeddings, through which it has a gradient like any token. The first token is the text.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from softtokens.config.thought import ThoughtConfig
from softtokens.ops import streamed
from softtokens.ops.mixture import Concentration, draw_several_tokens, tempered_log_softmax
from softtokens.ops.random import StepKeys
from softtokens.ops.vocabulary import Vocabulary
from softtokens.thoughts.base import Draw, Scores, Thought, ThoughtDistribution, require_at_least_one, require_event
from softtokens.thoughts.divergence import kl, register
from softtokens.thoughts.gaussian import require_positive
from softtokens.thoughts.hard import Hard, HardDistribution


@dataclasses.dataclass(frozen=True)
class Multiplex(Thought):
    """width: number of tokens, at least 1. temperature: they are drawn at, positive."""

    width: int
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require_positive("temperature", self.temperature)
        require_at_least_one("width", self.width)

    def stores(self, dim: int) -> dict[str, tuple[int, torch.dtype]]:
        del dim
        return {"tokens": (self.width, torch.int64)}

    def fed(self, drawn: Draw, vocabulary: Vocabulary) -> Float[Tensor, "rows dim"]:
        return vocabulary.embed(drawn.stored["tokens"]).mean(1)

    def at(
        self,
        hidden: Float[Tensor, "rows dim"],
        vocabulary: Vocabulary,
        logits: Float[Tensor, "rows vocab"] | None = None,
    ) -> MultiplexDistribution:
        logits = vocabulary.logits(hidden) if logits is None else logits
        return MultiplexDistribution(logits, self, vocabulary)

    def score(
        self,
        hidden: Float[Tensor, "rows dim"],
        vocabulary: Vocabulary,
        drawn: Draw,
        expected_gradient: Float[Tensor, "rows"] | None = None,
    ) -> Scores:
        log_prob, soft = streamed.token_log_prob(
            vocabulary, hidden, drawn.stored["tokens"], self.temperature, expected_gradient=expected_gradient
        )
        return Scores(log_prob, log_prob.detach(), torch.full_like(soft.entropy, float("nan")), soft)


@dataclasses.dataclass(frozen=True)
class MultiplexDistribution(ThoughtDistribution):
    """Independent categoricals over the vocabulary; event shape (width,), token ids."""

    logits: Float[Tensor, "rows vocab"]
    thought: Multiplex
    vocabulary: Vocabulary

    @property
    def of_one(self) -> HardDistribution:
        """The distribution of each token."""
        return HardDistribution(self.logits, self.thought.temperature, self.vocabulary)

    @property
    def concentration(self) -> Concentration:
        return self.of_one.concentration

    @property
    def mean(self) -> Int[Tensor, "rows width"]:
        raise ValueError("tokens have no mean; the mean of what they feed is the mixture of their embeddings")

    @property
    def mode(self) -> Int[Tensor, "rows width"]:
        return self.shadow[:, None].expand(-1, self.thought.width)

    def entropy(self) -> Float[Tensor, "rows"]:
        return self.thought.width * self.of_one.entropy()

    def sample(self, keys: StepKeys) -> Int[Tensor, "rows width"]:
        with torch.no_grad():
            return draw_several_tokens(self.logits, self.thought.temperature, keys, self.thought.width)[0]

    def log_prob(self, value: Tensor) -> Float[Tensor, "rows"]:
        require_event(value, self.logits.shape[0], self.thought.width)
        return tempered_log_softmax(self.logits, self.thought.temperature).gather(-1, value).sum(-1)

    def embed(self, value: Int[Tensor, "rows width"]) -> Float[Tensor, "rows dim"]:
        return self.vocabulary.embed(value).mean(1)

    def draw(self, keys: StepKeys) -> Draw:
        with torch.no_grad():
            tokens, log_prob, _ = draw_several_tokens(self.logits, self.thought.temperature, keys, self.thought.width)
            return Draw(tokens[:, 0], log_prob.sum(-1), keys, {"tokens": tokens})

    def surrogate(self, draw: Draw) -> Float[Tensor, "rows"]:
        return self.log_prob(draw.stored["tokens"])

    @torch.no_grad()
    def stored_log_prob(self, draw: Draw) -> Float[Tensor, "rows"]:
        return self.log_prob(draw.stored["tokens"])

    def noise_length(self, draw: Draw) -> Float[Tensor, "rows"]:
        return torch.zeros_like(self.logits[:, 0])  # drawn tokens, as they are

    def mismatch(self, draw: Draw) -> Float[Tensor, "rows"]:
        return torch.full_like(self.logits[:, 0], float("nan"))  # the sampler's full distribution is not stored


@register(MultiplexDistribution, MultiplexDistribution)
def _of_token_tuples(p: MultiplexDistribution, q: MultiplexDistribution) -> Tensor:
    if p.thought.width != q.thought.width:
        raise ValueError(f"widths {p.thought.width} and {q.thought.width} differ; their values do not compare")
    return p.thought.width * kl(p.of_one, q.of_one)


def build(config: ThoughtConfig, embedding_rms: float, greedy: bool) -> Thought:
    """Greedy thoughts are the arg-max token: all tokens of a thought would be the same."""
    del embedding_rms
    return Hard(0.0) if greedy else Multiplex(config.width, config.temperature)
