"""A batch to train on: rollouts of a tiny random model, with rewards that differ."""

from __future__ import annotations

import dataclasses

import torch

from softtokens.config.thought import ThoughtConfig
from softtokens.models.hf import HFPolicy
from softtokens.rollout.batches import sample_problems
from softtokens.rollout.limits import Limits
from softtokens.rollout.record import Rollout
from softtokens.thoughts import Thought, build_thought
from softtokens.train import gradient
from softtokens.train.gradient import Gradient
from softtokens.train.objective import TermWeights, leave_one_out
from softtokens.train.weights import Weights
from softtokens.types import Problem

QUESTIONS = ["Tom has 4 apples.", "3 Tom"]


@dataclasses.dataclass(frozen=True)
class Batch:
    policy: HFPolicy
    thought: Thought
    rollout: Rollout
    advantages: torch.Tensor

    @property
    def parameters(self) -> list[torch.Tensor]:
        return list(self.policy.model.parameters())

    def accumulate(self, terms: TermWeights, weights: Weights | None = None, **options) -> Gradient:
        """Accumulate the gradient into `.grad` of the parameters, or of those of other weights."""
        batch = gradient.Batch(self.thought, self.rollout, self.advantages, self.rollout.rows)
        return gradient.accumulate_gradient(weights or Weights(self.policy), batch, terms, **options)


def batch_of(policy: HFPolicy, mode: str, group: int) -> Batch:
    """Rollouts of two problems."""
    thought = build_thought(ThoughtConfig(mode=mode), policy.embedding_rms)
    problems = [Problem(i, f"User: {question} Assistant:", "3") for i, question in enumerate(QUESTIONS)]
    rollout = sample_problems(policy, thought, problems, [range(group)] * 2, Limits(7, 5), seed=3)
    rewards = torch.tensor([[100.0, 10.0, 0.0, 10.0][:group], [0.0, 0.0, 10.0, 0.0][:group]])
    return Batch(policy, thought, rollout, leave_one_out(rewards).flatten())
