"""Fewer rows and positions at a time where memory is short; what comes out does not change."""

from __future__ import annotations

import logging

import pytest
import torch

from softtokens.models.size import ModelSize
from softtokens.rollout import memory
from softtokens.rollout.batches import sample_problems
from softtokens.rollout.limits import Limits
from softtokens.thoughts import Gaussian, Hard
from softtokens.types import Problem

LIMITS = Limits(max_thought_steps=12, max_answer_tokens=5)
PROBLEMS = [Problem(id=i, prompt=text, answer="1") for i, text in enumerate(["User: 3", "Tom has 4 apples. so."])]


@pytest.mark.parametrize("thought", [Hard(), Gaussian(0.5, 0.3)])
def test_rows_that_wait_for_a_place_change_nothing(policy, thought):
    numbers = [range(20), range(20)]
    whole = sample_problems(policy, thought, PROBLEMS, numbers, LIMITS, seed=3)
    parts = sample_problems(policy, thought, PROBLEMS, numbers, LIMITS, seed=3, slots=8)
    for name in ("ids", "kind", "log_prob", "prompt_lengths", "inputs"):
        ours, theirs = getattr(parts, name), getattr(whole, name)
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)
    assert torch.equal(parts.keys.rollout, whole.keys.rollout)
    assert parts.answer_texts == whole.answer_texts and parts.stop_reasons == whole.stop_reasons


def test_short_memory_is_said(policy, monkeypatch, caplog):
    per_row = memory.bytes_per_row(policy, 100, LIMITS)
    monkeypatch.setattr(memory, "free_bytes", lambda device, spoken_for=0: 20.5 * per_row)
    with caplog.at_level(logging.WARNING):
        assert memory.fitting_rows(policy, 20, 100, LIMITS) == 20
        assert not caplog.records
        assert memory.fitting_rows(policy, 64, 100, LIMITS) == 16
    assert "memory for 16 of the 64 rollouts at a time" in caplog.text
    monkeypatch.setattr(memory, "free_bytes", lambda device, spoken_for=0: 0.5 * per_row)
    assert memory.fitting_rows(policy, 64, 100, LIMITS) == 8
    assert memory.fitting_rows(policy, 3, 100, LIMITS) == 3
    monkeypatch.setattr(
        memory, "free_bytes", lambda device, spoken_for=0: 100.5 * memory.bytes_per_token(policy) - spoken_for
    )
    assert memory.fitting_tokens(policy, 100) == 100
    assert memory.fitting_tokens(policy, 101) == 100
    assert memory.fitting_tokens(policy, 100, spoken_for=50 * memory.bytes_per_token(policy)) == 50
    assert memory.fitting_tokens(policy, 100, spoken_for=1e12) == 1


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_memory_of_a_position_is_what_autograd_keeps(make_policy, family):
    policy = make_policy(family)
    inputs = torch.randn(4, 32, 32, requires_grad=True)
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        policy.hidden_states(inputs)
    expected = ModelSize.of(policy.model).activation_bytes(torch.float32)
    assert 0.7 < sum(kept.values()) / (4 * 32) / expected < 1.0
