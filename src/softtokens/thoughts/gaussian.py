"""The paper's thought: the probability-weighted mean of all token embeddings, plus Gaussian noise.

    x = mu + sigma eps,   mu = softmax(logits / tau) E,   eps ~ N(0, I)        (arXiv 2509.19170, section 3)

`soft` is tau 0.5, `fuzzy` is tau 1e-4: there the mixture is one embedding, and the noise is what is explored.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from softtokens.ops import streamed
from softtokens.ops.mixture import Concentration, mixture_of, tempered_softmax
from softtokens.ops.random import StepKeys
from softtokens.ops.vocabulary import Vocabulary
from softtokens.thoughts import normal
from softtokens.thoughts.base import Draw, Scores, Thought, ThoughtDistribution, require_event

Estimator = Literal["replay", "density"]


@dataclasses.dataclass(frozen=True)
class Gaussian(Thought):
    """Noise on the input embedding.

    tau: temperature of the mixture, > 0. sigma: standard deviation per coordinate, in units of the embedding; 0 for
    noise-free ("greedy") thoughts. estimator: which expression carries the gradient (see `normal`).
    table_in_mean: whether the mean also moves by the embedding table moving inside it.
    """

    tau: float
    sigma: float
    estimator: Estimator = "replay"
    table_in_mean: Literal["frozen", "trained"] = "trained"

    def __post_init__(self) -> None:
        require_positive("tau", self.tau)
        require_not_negative("sigma", self.sigma)

    @property
    def temperature(self) -> float:
        return self.tau

    def at(
        self,
        hidden: Float[Tensor, "rows dim"],
        vocabulary: Vocabulary,
        logits: Float[Tensor, "rows vocab"] | None = None,
    ) -> GaussianDistribution:
        logits = vocabulary.logits(hidden) if logits is None else logits
        return GaussianDistribution(logits, self, self._mixed(vocabulary))

    def score(
        self,
        hidden: Float[Tensor, "rows dim"],
        vocabulary: Vocabulary,
        drawn: Draw,
        expected_gradient: Float[Tensor, "rows"] | None = None,
    ) -> Scores:
        normal.require_noise(self.sigma)
        value, noise = drawn.stored["inputs"], drawn.keys.normal(hidden.shape[-1])
        expected = None
        if expected_gradient is not None and self.estimator == "replay":
            expected = normal.gradient_of_replayed(noise, expected_gradient, self.sigma)
        mean, soft = streamed.mixture(self._mixed(vocabulary), hidden, self.tau, expected_gradient=expected)
        log_prob = normal.log_density(value, mean, self.sigma)
        surrogate = log_prob if self.estimator == "density" else normal.replayed_score(noise, mean, self.sigma)
        mismatch = normal.divergence(mean.detach(), value, noise, self.sigma)
        return Scores(surrogate, log_prob.detach(), mismatch, soft)

    def _mixed(self, vocabulary: Vocabulary) -> Vocabulary:
        return vocabulary if self.table_in_mean == "trained" else vocabulary.with_frozen_table()


@dataclasses.dataclass(frozen=True)
class GaussianDistribution(ThoughtDistribution):
    """N(mu, sigma^2 I) in embedding space; event shape (dim,)."""

    logits: Float[Tensor, "rows vocab"]
    thought: Gaussian
    vocabulary: Vocabulary

    @property
    def concentration(self) -> Concentration:
        return Concentration.of(self.logits, self.thought.tau)

    @property
    def mean(self) -> Float[Tensor, "rows dim"]:
        return self.vocabulary.mix(tempered_softmax(self.logits, self.thought.tau))

    @property
    def mode(self) -> Float[Tensor, "rows dim"]:
        return self.mean

    def entropy(self) -> Float[Tensor, "rows"]:
        normal.require_noise(self.thought.sigma)
        return normal.entropy(self.vocabulary.table.shape[-1], self.thought.sigma, like=self.logits)

    def sample(self, keys: StepKeys) -> Float[Tensor, "rows dim"]:
        with torch.no_grad():
            return normal.perturb(self.mean, self.thought.sigma, keys)[0]

    def log_prob(self, value: Tensor) -> Float[Tensor, "rows"]:
        normal.require_noise(self.thought.sigma)
        mean = self.mean
        require_event(value, *mean.shape)
        return normal.log_density(value, mean, self.thought.sigma)

    def embed(self, value: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
        return value

    def draw(self, keys: StepKeys) -> Draw:
        with torch.no_grad():
            mean = mixture_of(self.logits, self.thought.tau, self.vocabulary)
            value, log_prob = normal.perturb(mean, self.thought.sigma, keys)
            return Draw(self.shadow, log_prob, keys, {"inputs": value})

    def surrogate(self, draw: Draw) -> Float[Tensor, "rows"]:
        if self.thought.estimator == "density":
            return self.log_prob(draw.stored["inputs"])
        normal.require_noise(self.thought.sigma)
        mean = self.mean
        return normal.replayed_score(draw.keys.normal(mean.shape[-1]), mean, self.thought.sigma)

    @torch.no_grad()
    def stored_log_prob(self, draw: Draw) -> Float[Tensor, "rows"]:
        return self.log_prob(draw.stored["inputs"])

    def noise_length(self, draw: Draw) -> Float[Tensor, "rows"]:
        if self.thought.sigma == 0:
            return torch.zeros_like(self.logits[:, 0])
        return self.thought.sigma * draw.keys.normal(draw.stored["inputs"].shape[-1]).norm(dim=-1)

    @torch.no_grad()
    def mismatch(self, draw: Draw) -> Float[Tensor, "rows"]:
        normal.require_noise(self.thought.sigma)
        value = draw.stored["inputs"]
        noise = draw.keys.normal(value.shape[-1])
        return normal.divergence(self.mean, value, noise, self.thought.sigma)


def require_positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value}; it must be a positive number")


def require_not_negative(name: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} is {value}; it must be 0 or a positive number")
