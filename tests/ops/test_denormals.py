"""Denormal numbers count as zero inside our calls; afterwards the caller's setting is back."""

import sys

import pytest
import torch

from softtokens.models.hf import load_policy
from softtokens.ops.denormals import flushing_denormals
from softtokens.ops.random import Keys
from softtokens.rollout.decode import sample_rollout, stream_rollouts
from softtokens.rollout.limits import Limits
from softtokens.rollout.replay import replay
from softtokens.thoughts import Gaussian


def flushes() -> bool:
    return sys.float_info.min / 2 == 0 and float(torch.tensor(1e-38) / 10) == 0


@pytest.fixture(params=[False, True])
def before(request):
    torch.set_flush_denormal(request.param)
    yield request.param
    torch.set_flush_denormal(False)


def test_the_setting_is_put_back(before):
    assert flushes() == before
    with flushing_denormals():
        assert flushes()
        with flushing_denormals():
            assert flushes()
        assert flushes()
    assert flushes() == before
    with pytest.raises(ZeroDivisionError), flushing_denormals():
        _ = 1 / 0
    assert flushes() == before


def test_rollouts_and_their_replay_flush_for_themselves(before, policy, prompts, monkeypatch):
    inside = []
    step, continuation = policy.step, policy.hidden_states
    monkeypatch.setattr(policy, "step", lambda *a: inside.append(flushes()) or step(*a))
    monkeypatch.setattr(policy, "hidden_states", lambda *a: inside.append(flushes()) or continuation(*a))
    of_row = [0, 1, 2] * 6
    keys, limits, thought = Keys(0, torch.tensor(of_row), torch.arange(18)), Limits(4, 3), Gaussian(1e-4, 0.1)
    rollout = sample_rollout(policy, thought, prompts, of_row, keys, limits)
    assert flushes() == before
    for _ in stream_rollouts(policy, thought, prompts, of_row, keys, limits, slots=8):
        assert flushes() == before  # restored while the caller's code runs
    replay(policy, thought, rollout)
    assert flushes() == before
    assert inside and all(inside)
    load_policy("tiny")
    assert flushes() == before
