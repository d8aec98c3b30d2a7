"""Advantages of rollouts."""

from __future__ import annotations

from torch import Tensor


def leave_one_out(rewards: Tensor) -> Tensor:
    """Reward minus the mean reward of the other rollouts of the same problem: [problems, group] to the same.

    Unbiased, because the baseline of a rollout never contains its own reward. Not divided by the standard deviation:
    that would weigh problems by how rarely they are solved. A group whose rewards are all equal gets exactly zero:
    the rounding of the mean alone is enough for a full step of Adam. ValueError for a group of one.
    """
    group = rewards.shape[-1]
    if group < 2:
        raise ValueError(f"the group has {group} rollouts; the leave-one-out baseline needs at least 2")
    others = (rewards.sum(-1, keepdim=True) - rewards) / (group - 1)
    is_flat = (rewards == rewards[..., :1]).all(-1, keepdim=True)
    return (rewards - others).masked_fill(is_flat, 0.0)
