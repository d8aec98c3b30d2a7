import dataclasses

import pytest
import torch

from softtokens.endings import PAPER
from softtokens.rollout.replay import Replay, replay
from softtokens.train.metrics import NEAR_TIE, means, replay_tally, reward_metrics, rollout_tally
from softtokens.types import Verdict


def test_reward_metrics_by_hand():
    rewards = torch.tensor([[100.0, 10.0, 10.0], [0.0, 0.0, 0.0], [10.0, 10.0, 0.0], [10.0, 10.0, 10.0]])
    verdicts = [Verdict.RIGHT] + [Verdict.WRONG] * 7 + [Verdict.NO_ANSWER] * 3 + [Verdict.GRADER_TIMEOUT]
    metrics = reward_metrics(rewards, verdicts)
    assert metrics["reward"] == pytest.approx(170 / 12)
    # deviations within each group, n - 1 in the divisor: sqrt(2700), 0, sqrt(100 / 3), 0; then their mean
    assert metrics["reward_std"] == pytest.approx((2700**0.5 + (100 / 3) ** 0.5) / 4)
    assert metrics["frac_reward_zero_std"] == 0.5
    shares = {"right": 1 / 12, "wrong": 7 / 12, "no_answer": 3 / 12, "grader_timeout": 1 / 12, "grader_error": 0}
    assert {name: metrics[f"verdict/{name}"] for name in shares} == pytest.approx(shares)


@pytest.mark.parametrize("reward", [0.1, 1 / 3, 1e-8, 12345.678])
def test_equal_rewards_are_counted_as_such_whatever_rounding_does(reward):
    assert reward_metrics(torch.full((5, 7), reward), None)["frac_reward_zero_std"] == 1.0


def test_no_verdicts_for_a_reward_function():
    assert not any(name.startswith("verdict/") for name in reward_metrics(torch.rand(2, 3), None))


def test_rollout_metrics_count_thoughts_and_answers(make_batch):
    rollout = make_batch("soft").rollout
    metrics = means([rollout_tally(rollout, PAPER.reasons)])
    thoughts, answers = rollout.thought_lengths.tolist(), rollout.answer_lengths.tolist()
    assert metrics["completions/thought_length"] == pytest.approx(sum(thoughts) / 6)
    assert metrics["completions/answer_length"] == pytest.approx(sum(answers) / 6)
    assert metrics["completions/mean_length"] == pytest.approx((sum(thoughts) + sum(answers)) / 6)
    assert {reason: metrics[f"stop/{reason}"] * 6 for reason in PAPER.reasons} == pytest.approx(
        {reason: rollout.stop_reasons.count(reason) for reason in PAPER.reasons}
    )


def made_up(rollout, **values):
    """A replay in which every real step has the same values, and padding has nonsense that must not count."""
    thought, answer = rollout.thought_lengths, rollout.answer_lengths
    is_thought = torch.arange(int(thought.max())) < thought[:, None]
    is_answer = torch.arange(int(answer.max())) < answer[:, None]
    fields = {
        f.name: torch.where(is_answer if "answer" in f.name else is_thought, values.get(f.name, 1.0), 1e9)
        for f in dataclasses.fields(Replay)
        if not f.name.startswith("is_")
    }
    return Replay(is_thought_step=is_thought, is_answer_step=is_answer, **fields)


def means_of_replay(*arguments, **options):
    return means([replay_tally(*arguments, **options)])


def test_means_are_over_the_values_of_all_processes():
    assert means([{"a": (3.0, 1)}, {"a": (1.0, 3), "b": (0.0, 0)}]) == pytest.approx(
        {"a": 1.0, "b": float("nan")}, nan_ok=True
    )


def test_replay_metrics_average_over_steps_only(make_batch):
    rollout = make_batch("soft").rollout
    rollout = dataclasses.replace(rollout, log_prob=torch.full_like(rollout.log_prob, -2.0))
    values = {"entropy": 0.5, "max_weight": 0.8, "effective_support": 1.5, "mismatch": 0.25, "answer_log_prob": -2.5}
    assert means_of_replay(rollout, made_up(rollout, **values)) == pytest.approx(
        {
            "entropy": 0.5,
            "thought/max_weight": 0.8,
            "thought/near_tie_share": 1.0,
            "thought/effective_support": 1.5,
            "mismatch/thought_kl": 0.25,
            "mismatch/answer_log_prob": 0.5,
        }
    )
    tokens = means_of_replay(rollout, made_up(rollout, mismatch=float("nan"), thought_log_prob=-2.75))
    assert tokens["mismatch/thought_log_prob"] == pytest.approx(0.75)


def test_near_tie_share(make_batch):
    rollout = make_batch("soft").rollout
    replayed = made_up(rollout)
    weights = replayed.max_weight.clone()
    steps = torch.nonzero(replayed.is_thought_step)
    weights[replayed.is_thought_step] = NEAR_TIE
    weights[tuple(steps[0])], weights[tuple(steps[-1])], weights[tuple(steps[1])] = 0.5, 0.98, 1.0
    replayed = dataclasses.replace(replayed, max_weight=weights)
    assert means_of_replay(rollout, replayed)["thought/near_tie_share"] == pytest.approx(2 / len(steps))


@pytest.mark.parametrize("mode", ["hard", "soft", "fuzzy"])
def test_sampler_and_trainer_agree(make_batch, mode):
    """An on-policy step needs a mismatch of zero up to rounding."""
    batch = make_batch(mode)
    with torch.no_grad():
        metrics = means_of_replay(batch.rollout, replay(batch.policy, batch.thought, batch.rollout))
    mismatches = {name: value for name, value in metrics.items() if name.startswith("mismatch/")}
    assert len(mismatches) == 2
    assert all(value < 1e-4 for value in mismatches.values()), mismatches


def test_a_family_that_cannot_tell_reports_no_mismatch(make_batch):
    rollout = make_batch("soft").rollout
    nan = float("nan")
    metrics = means_of_replay(rollout, made_up(rollout, mismatch=nan, thought_log_prob=nan))
    assert not [name for name in metrics if name.startswith("mismatch/thought")]
