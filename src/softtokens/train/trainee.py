"""The state that the steps of a training run work on."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from softtokens.config.train import TrainConfig
from softtokens.rollout.decoder import Decoder
from softtokens.rollout.limits import Limits
from softtokens.thoughts import Thought
from softtokens.train.batch_sizes import BatchSizes
from softtokens.train.interrupt import StopRequest
from softtokens.train.scoring import Scorer
from softtokens.train.weights import Weights
from softtokens.types import Problem
from softtokens.world.processes import World


@dataclasses.dataclass(frozen=True)
class Trainee:
    """The state of a training run. batch_sizes: how much runs at a time; it shrinks when memory runs out. decoder:
    of the policy that samples."""

    config: TrainConfig
    weights: Weights
    optimizer: torch.optim.Optimizer
    thought: Thought
    problems: list[Problem]
    score: Scorer
    limits: Limits
    batch_sizes: BatchSizes
    decoder: Decoder
    stop: StopRequest = dataclasses.field(default_factory=StopRequest)

    @property
    def world(self) -> World:
        return self.weights.world

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.weights.parameters.values())
