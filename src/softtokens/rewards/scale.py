"""How much reward a verdict is worth."""

from __future__ import annotations

import dataclasses

from softtokens.types import Verdict


@dataclasses.dataclass(frozen=True)
class RewardScale:
    """The paper's scale: an answer that can be read is worth something even when it is wrong."""

    right: float = 100.0
    """Reward of a right answer."""
    wrong: float = 10.0
    """Reward of a wrong answer that stands in a finished box."""
    none: float = 0.0
    """Reward when there is no finished box, or when the grader could not judge the answer (time-out, error)."""

    def reward(self, verdict: Verdict) -> float:
        # A text that makes the grader fail earns as little as no answer: otherwise breaking the grader would pay.
        return {Verdict.RIGHT: self.right, Verdict.WRONG: self.wrong}.get(verdict, self.none)
