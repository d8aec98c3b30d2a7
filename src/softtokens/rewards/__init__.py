"""Graders, which decide whether an answer is right."""

from softtokens.rewards.graders import Grader, grader

__all__ = ["Grader", "grader"]
