import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from softtokens.train.advantage import leave_one_out

PAPER_SCALE = st.sampled_from([0.0, 10.0, 100.0])
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


def test_a_group_does_not_see_the_others():
    rewards = torch.tensor([[100.0, 10.0], [0.0, 10.0]])
    torch.testing.assert_close(leave_one_out(rewards)[0], leave_one_out(rewards[:1])[0])


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out(torch.ones(4, 1))
