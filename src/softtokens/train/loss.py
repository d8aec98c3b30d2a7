"""The two terms of the loss.

    loss = - 1/(B G) * sum over rollouts of  A * (w_t * sum over thoughts of log pi + w_a * sum over answer of log pi)

The sum over steps is not divided by the length. No clipping of ratios and no reference model: each batch of rollouts
serves one update, strictly on policy (arXiv 2509.19170, section 3).
"""

from __future__ import annotations

from torch import Tensor

from softtokens.rollout.replay import Replay


def policy_terms(replay: Replay, advantages: Tensor, total_rows: int) -> tuple[Tensor, Tensor]:
    """Thought term and answer term, each without its weight. advantages: [rows]; total_rows: B * G, of which these may
    be a part, so that the terms of the parts add up."""
    thought = -(advantages * replay.thought_log_prob.sum(-1)).sum() / total_rows
    answer = -(advantages * replay.answer_log_prob.sum(-1)).sum() / total_rows
    return thought, answer
