import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softtokens.rollout.record import Kind
from softtokens.rollout.replay import replay
from softtokens.train.objective import leave_one_out, policy_terms

PAPER_SCALE = st.sampled_from([0.0, 10.0, 100.0])
OR_NOTHING = st.one_of(PAPER_SCALE, st.just(float("nan")))
GROUPS = st.integers(2, 9).flatmap(lambda g: st.lists(st.lists(PAPER_SCALE, min_size=g, max_size=g), min_size=1))


@settings(deadline=None)  # the first example waits for imports
@given(GROUPS)
def test_is_the_reward_minus_the_mean_of_the_others(rewards):
    expected = [[r - sum(g[:i] + g[i + 1 :]) / (len(g) - 1) for i, r in enumerate(g)] for g in rewards]
    torch.testing.assert_close(leave_one_out(torch.tensor(rewards)), torch.tensor(expected))


@settings(deadline=None)  # the first example waits for imports
@given(GROUPS)
def test_adds_up_to_zero_in_every_group(rewards):
    sums = leave_one_out(torch.tensor(rewards)).sum(-1)
    torch.testing.assert_close(sums, torch.zeros(len(rewards)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("reward", [0.0, 10.0, 100.0, 0.1, 1 / 3, -7.7, 1e30])
def test_equal_rewards_give_exactly_nothing_to_learn(reward):
    assert not leave_one_out(torch.full((3, 32), reward)).any()


def test_a_rollout_that_does_not_count_is_in_no_baseline():
    nan = float("nan")
    advantages = leave_one_out(torch.tensor([[5.0, nan, 1.0, 3.0], [nan, nan, 7.0, nan], [2.0, nan, 2.0, nan]]))
    counted = leave_one_out(torch.tensor([[5.0, 1.0, 3.0]]))
    torch.testing.assert_close(advantages[0], torch.tensor([counted[0, 0], 0.0, counted[0, 1], counted[0, 2]]))
    assert not advantages[1:].any()  # one that counts is alone, and two equal ones teach nothing


@settings(deadline=None)
@given(st.lists(st.tuples(OR_NOTHING, OR_NOTHING), min_size=2, max_size=6))
def test_the_baseline_of_a_pair_has_neither_of_the_two(pairs):
    group = [reward for pair in pairs for reward in pair]
    counted = [r for r in group if r == r]  # not NaN
    expected = []
    for i, reward in enumerate(group):
        others = [r for j, r in enumerate(group) if j // 2 != i // 2 and r == r]
        teaches = reward == reward and others and len(set(counted)) > 1
        expected.append(reward - sum(others) / len(others) if teaches else 0.0)
    torch.testing.assert_close(leave_one_out(torch.tensor([group]), pairs=True), torch.tensor([expected]))


def test_a_group_does_not_see_the_others():
    rewards = torch.tensor([[100.0, 10.0], [0.0, 10.0]])
    torch.testing.assert_close(leave_one_out(rewards)[0], leave_one_out(rewards[:1])[0])


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out(torch.ones(4, 1))


@pytest.mark.parametrize("mode", ["hard", "soft", "fuzzy"])
def test_terms_agree_with_a_loop_over_rollouts_and_steps(make_batch, mode):
    batch = make_batch(mode)
    with torch.no_grad():
        scored = replay(batch.policy, batch.thought, batch.rollout)
    thought, answer = 0.0, 0.0
    for row in range(batch.rollout.rows):
        advantage = float(batch.advantages[row])
        for step in range(int(batch.rollout.thought_lengths[row])):
            thought -= advantage * float(scored.thought_surrogate[row, step]) / batch.rollout.rows
        for step in range(int(batch.rollout.answer_lengths[row])):
            answer -= advantage * float(scored.answer_log_prob[row, step]) / batch.rollout.rows
    terms = policy_terms(scored, batch.advantages, batch.rollout.rows)
    torch.testing.assert_close(torch.stack(terms), torch.tensor([thought, answer]), rtol=1e-4, atol=1e-3)


def test_forced_text_is_no_action(make_batch):
    """Every thought and answer counts once, and forced text does not count."""
    batch = make_batch("hard")
    scored = replay(batch.policy, batch.thought, batch.rollout)
    assert (batch.rollout.kind == Kind.FORCED).any()
    assert int(scored.is_thought_step.sum()) == int((batch.rollout.kind == Kind.THOUGHT).sum())
    assert int(scored.is_answer_step.sum()) == int((batch.rollout.kind == Kind.ANSWER).sum())
    logits = batch.policy.model(batch.rollout.ids).logits[:, :-1].float()
    logits[..., len(batch.policy.tokenizer) :] = float("-inf")
    log_prob = logits.log_softmax(-1).gather(-1, batch.rollout.ids[:, 1:, None])[..., 0]
    actions = (batch.rollout.is_thought | batch.rollout.is_answer)[:, 1:]
    expected = -(batch.advantages * (log_prob * actions).sum(-1)).mean()
    thought, answer = policy_terms(scored, batch.advantages, batch.rollout.rows)
    torch.testing.assert_close(thought + answer, expected, rtol=1e-4, atol=1e-4)
