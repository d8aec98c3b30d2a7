"""A family of thoughts that the tests bring along: a token's embedding, blended with the mixture by a learnt gate.

    x = g e_y + (1 - g) mu,   y ~ softmax(z / tau),   mu = softmax(z / tau) E,   g = sigmoid(W e_y + b)

The action is the token, so the log-probability is the token's. mu is stored and is data; the gate is computed again in
the replay, and learns through what it fed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from softtokens.config import signal
from softtokens.config import thought as table
from softtokens.ops.mixture import mixture_of
from softtokens.thoughts import Draw, Hard, Thought, ThoughtDistribution


@dataclasses.dataclass(frozen=True)
class Gated(Thought):
    temperature: float = 1.0

    def stores(self, dim):
        return {"mixture": (dim, torch.float32)}

    def new_head(self, dim):
        return nn.Sequential(nn.Linear(dim, dim))

    def fed(self, drawn, vocabulary):
        return self.gated(vocabulary.embed(drawn.token), drawn.stored["mixture"], vocabulary)

    def gated(self, token, mixture, vocabulary):
        gate = torch.sigmoid(vocabulary.thought_head(token.to(vocabulary.thought_head[0].weight.dtype))).to(token.dtype)
        return gate * token + (1 - gate) * mixture.to(token.dtype)

    def at(self, hidden, vocabulary, logits=None):
        hard = Hard(self.temperature).at(hidden, vocabulary, logits)
        return GatedDistribution(hard.logits, self, hard)

    def score(self, hidden, vocabulary, drawn, expected_gradient=None):
        return Hard(self.temperature).score(hidden, vocabulary, drawn, expected_gradient)


@dataclasses.dataclass(frozen=True)
class GatedDistribution(ThoughtDistribution):
    logits: torch.Tensor
    thought: Gated
    hard: ThoughtDistribution  # of the token

    concentration = property(lambda self: self.hard.concentration)
    mean = property(lambda self: self.hard.mean)
    mode = property(lambda self: self.hard.mode)
    entropy, sample, log_prob, surrogate, stored_log_prob, noise_length, mismatch = map(
        lambda name: lambda self, *arguments: getattr(self.hard, name)(*arguments),
        ("entropy", "sample", "log_prob", "surrogate", "stored_log_prob", "noise_length", "mismatch"),
    )

    def draw(self, keys):
        with torch.no_grad():
            drawn = self.hard.draw(keys)
            mixture = mixture_of(self.logits, self.thought.temperature or 1e-4, self.hard.vocabulary)
            return Draw(drawn.token, drawn.log_prob, keys, {"mixture": mixture})

    def embed(self, value):
        mixture = mixture_of(self.logits, self.thought.temperature or 1e-4, self.hard.vocabulary)
        return self.thought.gated(self.hard.vocabulary.embed(value), mixture, self.hard.vocabulary)


def build(config, embedding_rms, greedy):
    return Gated(0.0 if greedy else config.temperature)


def register(setitem: Callable, setattr: Callable) -> None:
    """What one line in the table does: the choices of --mode are those of the table."""
    setitem(table.FAMILIES, "gated", table.Family("gated:build", 1.0, mixes_table=True))
    for module in (table, signal):
        setattr(module, "Mode", Literal[tuple(table.FAMILIES)])
