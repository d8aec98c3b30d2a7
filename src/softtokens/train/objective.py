"""The objective: advantages of rollouts, and the two terms of the loss.

    loss = - 1/(B G) * sum over rollouts of  A * (w_t * sum over thoughts of log pi + w_a * sum over answer of log pi)

The sum over steps is not divided by the length. No clipping of ratios and no reference model: each batch of rollouts
serves one update, strictly on policy (arXiv 2509.19170, section 3).
"""

from __future__ import annotations

import dataclasses
import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from softtokens.rollout.replay import ExpectedGradient, Replay


def leave_one_out(rewards: Float[Tensor, "problems group"], *, pairs: bool = False) -> Float[Tensor, "problems group"]:
    """Reward minus the mean reward of the other rollouts of the same problem. pairs: of the rollouts outside its pair
    (0 and 1, 2 and 3, ...), for rollouts whose noise is paired.

    Unbiased, because the baseline of a rollout contains neither its own reward nor one that depends on its noise. Not
    divided by the standard deviation: that would weigh problems by how rarely they are solved. A group whose rewards
    are all equal gets exactly zero: the rounding of the mean alone is enough for a full step of Adam. A rollout whose
    reward is NaN does not count: it gets zero, and is in no baseline. ValueError for a group of one.
    """
    group = rewards.shape[-1]
    if group < 2:
        raise ValueError(f"the group has {group} rollouts; the leave-one-out baseline needs at least 2")
    counted = ~rewards.isnan()
    known = rewards.masked_fill(~counted, 0.0)
    own, own_count = (_of_pairs(known), _of_pairs(counted.long())) if pairs else (known, 1)
    others_count = counted.sum(-1, keepdim=True) - own_count
    others = (known.sum(-1, keepdim=True) - own) / others_count.clamp(min=1)
    return (known - others).masked_fill(~counted | (others_count < 1) | is_flat(rewards)[..., None], 0.0)


def _of_pairs(values: Tensor) -> Tensor:
    """The sum of each pair, at both of its places."""
    return values.unflatten(-1, (-1, 2)).sum(-1).repeat_interleave(2, dim=-1)


def is_flat(rewards: Float[Tensor, "problems group"]) -> Bool[Tensor, "problems"]:
    """Whether the rewards of a group that count, those that are no NaN, are all equal, so that nothing is learned."""
    counted = ~rewards.isnan()
    low, high = (rewards.masked_fill(~counted, end) for end in (math.inf, -math.inf))
    return low.amin(-1) >= high.amax(-1)


@dataclasses.dataclass(frozen=True)
class TermWeights:
    """Weights of the thought and the answer term; 1 and 1 is the paper, 0 and 1 the answer-only control."""

    thought: float = 1.0
    answer: float = 1.0


def policy_terms(
    replay: Replay, advantages: Float[Tensor, "rows"], total_rows: int
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Thought term and answer term, each without its weight. total_rows: B * G, of which these may
    be a part, so that the terms of the parts add up."""
    thought = -(advantages * replay.thought_surrogate.sum(-1)).sum() / total_rows
    answer = -(advantages * replay.answer_log_prob.sum(-1)).sum() / total_rows
    return thought, answer


def expected_gradient(advantages: Float[Tensor, "rows"], total_rows: int, weights: TermWeights) -> ExpectedGradient:
    """What each log-probability of a row is multiplied by in the weighted sum of the terms. A term of weight 0 takes no
    part in the loss; its entry is None."""

    def of_one(weight: float) -> Float[Tensor, "rows"] | None:
        # the same operations as the backward of `policy_terms`, so every bit agrees
        return advantages * -(torch.full((), weight, device=advantages.device) / total_rows) if weight else None

    return ExpectedGradient(of_one(weights.thought), of_one(weights.answer))
