"""The interface of a family of thoughts.

A *thought* is an immutable strategy (`Hard(temperature=1.0)`). Bound to the hidden states of some rows and to the
model's vocabulary it becomes a *distribution* over what may be fed at that step, with the methods of
torch.distributions. What is sampled (the value) and what is fed (`embed(value)`) differ: a token id has event shape (),
a noisy mixture (dim,), noise on the k largest logits (k,).
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from softtokens.ops import streamed
from softtokens.ops.mixture import Concentration, arg_max
from softtokens.ops.random import Rows, StepKeys
from softtokens.ops.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Draw:
    """One thought step of some rows, as a rollout stores it."""

    token: Int[Tensor, "rows"]  # the token drawn, or the arg-max shadow of a continuous thought
    log_prob: Float[Tensor, "rows"]  # as sampled; 0 for a step without randomness
    keys: StepKeys  # names of the random numbers used; drawing them again gives the noise
    stored: Mapping[str, Tensor]  # [rows, size] by name, as `Thought.stores` lists them

    def __getitem__(self, rows: Rows) -> Draw:
        stored = {name: x[rows] for name, x in self.stored.items()}
        return Draw(self.token[rows], self.log_prob[rows], self.keys[rows], stored)


@dataclasses.dataclass(frozen=True)
class Scores:
    """Stored steps scored under the current parameters. Only the surrogate has a gradient.

    surrogate: its gradient is the estimator's; its value is meaningless. log_prob: of the stored values, NaN where the
    stored tensors do not determine it.
    """

    surrogate: Float[Tensor, "rows"]
    log_prob: Float[Tensor, "rows"]
    mismatch: Float[Tensor, "rows"]  # see ThoughtDistribution.mismatch
    concentration: Concentration


class ThoughtDistribution(abc.ABC):
    """The distribution of one thought step; batch shape [rows], event shape by family.

    `logits` are float32 (or float64).
    """

    logits: Float[Tensor, "rows vocab"]

    @property
    def shadow(self) -> Int[Tensor, "rows"]:
        """The arg-max token: the text of a thought that is not a token."""
        return arg_max(self.logits)

    @property
    @abc.abstractmethod
    def concentration(self) -> Concentration:
        """How soft the weights over tokens are."""

    @property
    @abc.abstractmethod
    def mean(self) -> Shaped[Tensor, rows * event]:
        """Expected value. ValueError where values have no mean (tokens)."""

    @property
    @abc.abstractmethod
    def mode(self) -> Shaped[Tensor, rows * event]:
        """The most likely value."""

    @abc.abstractmethod
    def entropy(self) -> Float[Tensor, "rows"]:
        """Nats; differential for continuous values."""

    @abc.abstractmethod
    def sample(self, keys: StepKeys) -> Shaped[Tensor, rows * event]:
        """A value, without gradient. The same keys give the same value."""

    @abc.abstractmethod
    def log_prob(self, value: Tensor) -> Float[Tensor, "rows"]:
        """Natural log of the probability (tokens) or density (vectors) of a value; differentiable."""

    @abc.abstractmethod
    def embed(self, value: Shaped[Tensor, rows * event]) -> Float[Tensor, "rows dim"]:
        """The vector that a value feeds into the model's first block."""

    @abc.abstractmethod
    def draw(self, keys: StepKeys) -> Draw:
        """Sample, and keep what a replay needs."""

    @abc.abstractmethod
    def surrogate(self, draw: Draw) -> Float[Tensor, "rows"]:
        """An expression whose gradient is the estimator of the log-probability's gradient. Its value need not be a
        log-probability and need not depend on the parameters, so do not build a ratio on it."""

    @abc.abstractmethod
    def stored_log_prob(self, draw: Draw) -> Float[Tensor, "rows"]:
        """Log-probability of a stored step under these hidden states, without gradient. NaN where the stored tensors
        do not determine it."""

    @abc.abstractmethod
    def noise_length(self, draw: Draw) -> Float[Tensor, "rows"]:
        """How far the noise of a stored step moved what was fed, in units of the embedding; 0 without noise."""

    @abc.abstractmethod
    def mismatch(self, draw: Draw) -> Float[Tensor, "rows"]:
        """KL in nats between the step's distribution when it was drawn and now. NaN where the stored tensors do not
        determine it. Zero up to rounding if the parameters are those of the rollout."""


class Thought(abc.ABC):
    """How a model thinks: an immutable strategy."""

    # whether a thought is just a token drawn from softmax(logits / temperature); then one draw serves both thoughts and
    # answers
    is_drawn_token: bool = False

    @property
    @abc.abstractmethod
    def temperature(self) -> float:
        """Temperature of the weights over tokens; 0: arg-max."""

    def stores(self, dim: int) -> dict[str, tuple[int, torch.dtype]]:
        """What of a step a replay needs besides its token: name -> (numbers per step, their dtype). What was fed, or
        what that is computed from; choices that later parameters must not make again, such as a truncation."""
        return {"inputs": (dim, torch.float32)}

    def fed(self, drawn: Draw, vocabulary: Vocabulary) -> Float[Tensor, "rows dim"]:
        """What these steps feed into the model's first block under the present parameters. The rollout and
        its replay both call it; in the replay gradients flow through it. By default a stored vector, which is data."""
        del vocabulary
        return drawn.stored["inputs"]

    def new_head(self, dim: int) -> nn.Module | None:
        """The module of the family's own parameters, which belong to the model: `vocabulary.thought_head` in `at`,
        `score` and `fed`. None: it has none. Made once, when a model is first trained in this way; later its saved
        parameters take the place of the new ones."""
        del dim
        return None

    @abc.abstractmethod
    def at(
        self,
        hidden: Float[Tensor, "rows dim"],
        vocabulary: Vocabulary,
        logits: Float[Tensor, "rows vocab"] | None = None,
    ) -> ThoughtDistribution:
        """The distribution of the step that follows these hidden states. logits: theirs, if at hand."""

    def score(
        self,
        hidden: Float[Tensor, "rows dim"],
        vocabulary: Vocabulary,
        drawn: Draw,
        expected_gradient: Float[Tensor, "rows"] | None = None,
    ) -> Scores:
        """What the distribution says of stored steps, for any number of rows, without logits for all of them.

        Equal to `at(hidden, vocabulary)` asked for surrogate, stored_log_prob, mismatch and concentration.
        By default the distribution itself, for a chunk of rows at a time. expected_gradient: the gradient that the
        surrogate will receive, where it is known: saves time, changes nothing.
        """
        del expected_gradient
        return _score_in_chunks(self, hidden, vocabulary, drawn, streamed.default_chunk_rows(vocabulary))


def _score_in_chunks(
    thought: Thought, hidden: Float[Tensor, "rows dim"], vocabulary: Vocabulary, drawn: Draw, chunk_rows: int
) -> Scores:
    """`Thought.score` for any family: builds the distribution for a chunk of rows at a time and recomputes it in the
    backward pass."""

    def score(hidden: Float[Tensor, "rows dim"], drawn: Draw) -> tuple[Tensor, ...]:
        distribution = thought.at(hidden, vocabulary)
        soft = distribution.concentration
        return (
            distribution.surrogate(drawn),
            distribution.stored_log_prob(drawn),
            distribution.mismatch(drawn),
            *dataclasses.astuple(soft),
        )

    pieces = []
    for start in range(0, max(1, hidden.shape[0]), chunk_rows):
        rows = slice(start, start + chunk_rows)
        pieces.append(checkpoint(score, hidden[rows], drawn[rows], use_reentrant=False, preserve_rng_state=False))
    surrogate, log_prob, mismatch, *soft = (torch.cat(column) for column in zip(*pieces, strict=True))
    return Scores(surrogate, log_prob, mismatch, Concentration(*soft))


def require_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1")


def require_event(value: Tensor, *shape: int) -> None:
    if tuple(value.shape) != shape:
        raise ValueError(f"value has shape {tuple(value.shape)}; this distribution takes {shape}")
