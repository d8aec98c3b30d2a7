"""The paper's ablations: the noise goes not on the input embedding but further up, and the mixture is taken after it.

    hidden:  h' = h + sigma eps,               x = softmax(logits(h') / tau) E
    logits:  z' = z + sigma eps (all of z),     x = softmax(z' / tau) E
    top-k:   z' = z + sigma eps on the k largest logits, the others as they are

The action is the noisy h' or z', so its log-probability is that of a normal around h or z, and the table does not
enter it. What was fed is stored, and with it the noisy h' or the k noisy logits, which have a log-probability under any
later parameters; a whole noisy z' is too large to keep. The noise is drawn again from its key, so the estimator is
always `replay`. sigma is absolute here, in units of the last hidden state or in nats of logit.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

from softtokens.ops.mixture import Concentration, tempered_softmax
from softtokens.ops.random import StepKeys
from softtokens.ops.vocabulary import Vocabulary
from softtokens.thoughts import normal
from softtokens.thoughts.base import Draw, Thought, ThoughtDistribution, require_event
from softtokens.thoughts.gaussian import require_not_negative, require_positive
from softtokens.thoughts.selected import top_tokens


@dataclasses.dataclass(frozen=True)
class HiddenGaussian(Thought):
    """Noise on the last hidden state."""

    tau: float
    sigma: float

    def __post_init__(self) -> None:
        require_positive("tau", self.tau)
        require_not_negative("sigma", self.sigma)

    def stores(self, dim: int) -> dict[str, tuple[int, torch.dtype]]:
        return {"inputs": (dim, torch.float32), "value": (dim, torch.float32)}

    @property
    def temperature(self) -> float:
        return self.tau

    def at(
        self,
        hidden: Float[Tensor, "rows dim"],
        vocabulary: Vocabulary,
        logits: Float[Tensor, "rows vocab"] | None = None,
    ) -> PerturbedDistribution:
        logits = vocabulary.logits(hidden) if logits is None else logits
        return PerturbedDistribution(logits, self, vocabulary, hidden.to(logits.dtype), None)


@dataclasses.dataclass(frozen=True)
class LogitGaussian(Thought):
    """Noise on all logits, or on the `top_k` largest ones."""

    tau: float
    sigma: float
    top_k: int | None = None

    def __post_init__(self) -> None:
        require_positive("tau", self.tau)
        require_not_negative("sigma", self.sigma)
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; it must be at least 1, or none for noise on all logits")

    def stores(self, dim: int) -> dict[str, tuple[int, torch.dtype]]:
        inputs = {"inputs": (dim, torch.float32)}
        if self.top_k is None:
            return inputs
        return inputs | {"support": (self.top_k, torch.int64), "value": (self.top_k, torch.float32)}

    @property
    def temperature(self) -> float:
        return self.tau

    def at(
        self,
        hidden: Float[Tensor, "rows dim"],
        vocabulary: Vocabulary,
        logits: Float[Tensor, "rows vocab"] | None = None,
    ) -> PerturbedDistribution:
        logits = vocabulary.logits(hidden) if logits is None else logits
        if self.top_k is None:
            return PerturbedDistribution(logits, self, vocabulary, vocabulary.of_tokens(logits), None)
        support = top_tokens(logits, self.top_k, vocabulary)
        return PerturbedDistribution(logits, self, vocabulary, logits.gather(-1, support), support)


@dataclasses.dataclass(frozen=True)
class PerturbedDistribution(ThoughtDistribution):
    """N(location, sigma^2 I) over the hidden state (dim,), the logits (vocab,) or the largest logits (k,)."""

    logits: Float[Tensor, "rows vocab"]
    thought: HiddenGaussian | LogitGaussian
    vocabulary: Vocabulary
    location: Float[Tensor, "rows event"]
    support: Int[Tensor, "rows k"] | None

    @property
    def keeps_value(self) -> bool:
        """Whether the noisy location is stored: not the logits of a whole vocabulary."""
        return isinstance(self.thought, HiddenGaussian) or self.support is not None

    @property
    def concentration(self) -> Concentration:
        return Concentration.of(self.logits, self.thought.tau)

    @property
    def mean(self) -> Float[Tensor, "rows event"]:
        return self.location

    @property
    def mode(self) -> Float[Tensor, "rows event"]:
        return self.location

    def entropy(self) -> Float[Tensor, "rows"]:
        normal.require_noise(self.thought.sigma)
        return normal.entropy(self.location.shape[-1], self.thought.sigma, like=self.location)

    def sample(self, keys: StepKeys) -> Float[Tensor, "rows event"]:
        with torch.no_grad():
            return normal.perturb(self.location, self.thought.sigma, keys)[0]

    def log_prob(self, value: Tensor) -> Float[Tensor, "rows"]:
        normal.require_noise(self.thought.sigma)
        require_event(value, *self.location.shape)
        return normal.log_density(value, self.location, self.thought.sigma)

    def embed(self, value: Float[Tensor, "rows event"]) -> Float[Tensor, "rows dim"]:
        if isinstance(self.thought, HiddenGaussian):
            noisy = self.vocabulary.logits(value)
        elif self.support is not None:
            noisy = self.logits.scatter(-1, self.support, value)
        else:
            noisy = self.vocabulary.to_rows(value)
        return self.vocabulary.mix(tempered_softmax(noisy, self.thought.tau))

    def draw(self, keys: StepKeys) -> Draw:
        with torch.no_grad():
            value, log_prob = normal.perturb(self.location, self.thought.sigma, keys)
            stored = {"inputs": self.embed(value)}
            if self.support is not None:
                stored["support"] = self.support
            if self.keeps_value:
                stored["value"] = value
            return Draw(self.shadow, log_prob, keys, stored)

    def surrogate(self, draw: Draw) -> Float[Tensor, "rows"]:
        normal.require_noise(self.thought.sigma)
        location = self._location_of(draw)
        return normal.replayed_score(draw.keys.normal(location.shape[-1]), location, self.thought.sigma)

    @torch.no_grad()
    def stored_log_prob(self, draw: Draw) -> Float[Tensor, "rows"]:
        normal.require_noise(self.thought.sigma)
        if not self.keeps_value:
            return torch.full_like(self.logits[:, 0], float("nan"))
        return normal.log_density(draw.stored["value"], self._location_of(draw), self.thought.sigma)

    @torch.no_grad()
    def noise_length(self, draw: Draw) -> Float[Tensor, "rows"]:
        if self.thought.sigma == 0:
            return torch.zeros_like(self.logits[:, 0])
        return (draw.stored["inputs"] - self.embed(self.location)).norm(dim=-1)

    @torch.no_grad()
    def mismatch(self, draw: Draw) -> Float[Tensor, "rows"]:
        if not self.keeps_value:
            return torch.full_like(self.logits[:, 0], float("nan"))
        location = self._location_of(draw)
        noise = draw.keys.normal(location.shape[-1])
        return normal.divergence(location, draw.stored["value"], noise, self.thought.sigma)

    def _location_of(self, draw: Draw) -> Float[Tensor, "rows event"]:
        """Of the logits that got noise in this step, under these parameters."""
        support = draw.stored.get("support")
        return self.location if support is None else self.logits.gather(-1, support)
