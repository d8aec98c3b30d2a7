"""What is logged of a training step. Every key is defined in docs/metrics.md."""

from __future__ import annotations

from torch import Tensor

from softtokens.rollout.record import Rollout
from softtokens.rollout.replay import Replay
from softtokens.types import StopReason, Verdict

NEAR_TIE = 0.99  # a mixture whose heaviest token weighs less still has a say in where the mean goes


def reward_metrics(rewards: Tensor, verdicts: list[Verdict] | None) -> dict[str, float]:
    """rewards: [problems, group]."""
    spread = rewards.std(-1)
    metrics = {
        "reward": float(rewards.mean()),
        "reward_std": float(spread.mean()),
        # by comparison: the rounded deviation of equal rewards is not always 0
        "frac_reward_zero_std": float((rewards == rewards[:, :1]).all(-1).float().mean()),
    }
    if verdicts is not None:
        metrics |= {f"verdict/{v.value}": verdicts.count(v) / len(verdicts) for v in Verdict}
    return metrics


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    thoughts, answers = rollout.thought_lengths.float(), rollout.answer_lengths.float()
    metrics = {
        "completions/mean_length": float((thoughts + answers).mean()),
        "completions/thought_length": float(thoughts.mean()),
        "completions/answer_length": float(answers.mean()),
        "num_tokens": float((thoughts + answers).sum()),
    }
    return metrics | {f"stop/{r.value}": rollout.stop_reasons.count(r) / rollout.rows for r in StopReason}


def replay_metrics(rollout: Rollout, replay: Replay, *, feeds_tokens: bool) -> dict[str, float]:
    steps = replay.is_thought_step
    sampled = rollout.log_prob[rollout.is_answer]
    metrics = {
        "entropy": float(replay.entropy[steps].mean()),
        "thought/max_weight": float(replay.max_weight[steps].mean()),
        "thought/near_tie_share": float((replay.max_weight[steps] < NEAR_TIE).float().mean()),
        "thought/effective_support": float(replay.effective_support[steps].mean()),
        "mismatch/answer_log_prob": float((replay.answer_log_prob[replay.is_answer_step] - sampled).abs().mean()),
    }
    if feeds_tokens:
        sampled = rollout.log_prob[rollout.is_thought]
        metrics["mismatch/thought_log_prob"] = float((replay.thought_log_prob[steps] - sampled).abs().mean())
    elif not replay.mismatch[steps].isnan().any():
        metrics["mismatch/thought_kl"] = float(replay.mismatch[steps].mean())
    return metrics
