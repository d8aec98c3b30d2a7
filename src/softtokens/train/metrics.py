"""What is logged of a training step. Every key is defined in docs/metrics.md.

Each process tallies its own rows; the means over all rows are made of the tallies of all processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from softtokens.rollout.record import Rollout
from softtokens.rollout.replay import Replay
from softtokens.train.objective import is_flat
from softtokens.types import Verdict

NEAR_TIE = 0.99  # if the heaviest token weighs less than this, other tokens still move the mean
Tally = dict[str, tuple[float, float]]  # name -> (sum of values, number of values)


def reward_metrics(
    rewards: Tensor, verdicts: list[Verdict] | None, parts: Mapping[str, Tensor] | None = None
) -> dict[str, float]:
    """rewards: [problems, group], of all processes, NaN where they do not count. parts: likewise, by the name of a
    reward function."""
    # compared directly: with rounding, the deviation of equal rewards is not always 0
    metrics = _mean_and_std("reward", rewards) | {"frac_reward_zero_std": float(is_flat(rewards).float().mean())}
    for name, values in (parts or {}).items():
        metrics |= _mean_and_std(f"reward/{name}", values)
        metrics[f"reward/{name}_none"] = float(values.isnan().float().mean())
    if verdicts is not None:
        metrics |= {f"verdict/{v.value}": verdicts.count(v) / len(verdicts) for v in Verdict}
    return metrics


def _mean_and_std(name: str, values: Tensor) -> dict[str, float]:
    """The mean, and the mean over problems of the deviation in a group, of the values that count."""
    groups = [group[~group.isnan()] for group in values]
    deviations = [float(group.std()) for group in groups if len(group) > 1]
    deviation = sum(deviations) / len(deviations) if deviations else float("nan")
    return {name: float(values.nanmean()), f"{name}_std": deviation}


def rollout_tally(rollout: Rollout, stop_reasons: Sequence[str]) -> Tally:
    """stop_reasons: the names that a rollout's may have."""
    thoughts, answers, rows = rollout.thought_lengths, rollout.answer_lengths, rollout.rows
    tally: Tally = {
        "completions/mean_length": (int((thoughts + answers).sum()), rows),
        "completions/thought_length": (int(thoughts.sum()), rows),
        "completions/answer_length": (int(answers.sum()), rows),
    }
    return tally | {f"stop/{reason}": (rollout.stop_reasons.count(reason), rows) for reason in stop_reasons}


def replay_tally(rollout: Rollout, replay: Replay) -> Tally:
    """How far the replay is from the rollout is measured by what the thoughts know of it: a divergence, or else the
    log-probability of what was drawn."""
    steps = replay.is_thought_step
    sampled = rollout.log_prob[rollout.is_answer]
    tally = {
        "entropy": _of(replay.entropy[steps]),
        "thought/max_weight": _of(replay.max_weight[steps]),
        "thought/near_tie_share": _of(replay.max_weight[steps] < NEAR_TIE),
        "thought/effective_support": _of(replay.effective_support[steps]),
        "mismatch/answer_log_prob": _of((replay.answer_log_prob[replay.is_answer_step] - sampled).abs()),
    }
    if not replay.mismatch[steps].isnan().any():
        tally["mismatch/thought_kl"] = _of(replay.mismatch[steps])
    elif not replay.thought_log_prob[steps].isnan().any():
        sampled = rollout.log_prob[rollout.is_thought]
        tally["mismatch/thought_log_prob"] = _of((replay.thought_log_prob[steps] - sampled).abs())
    return tally


def means(tallies: Iterable[Mapping[str, tuple[float, float]]]) -> dict[str, float]:
    """Means over the values of all processes together; NaN if there are none."""
    sums: dict[str, tuple[float, float]] = {}
    for tally in tallies:
        for name, (total, count) in tally.items():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = (before[0] + total, before[1] + count)
    return {name: total / count if count else float("nan") for name, (total, count) in sums.items()}


def _of(values: Tensor) -> tuple[float, float]:
    return float(values.double().sum()), values.numel()
