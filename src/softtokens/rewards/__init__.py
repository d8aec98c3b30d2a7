"""Graders say whether an answer is right; the scale turns what they say into a reward."""

from softtokens.rewards.graders import Grader, grader
from softtokens.rewards.scale import RewardScale

__all__ = ["Grader", "RewardScale", "grader"]
