"""Fewer rows and positions at a time if memory is short; results do not change."""

from __future__ import annotations

import pytest
import torch

from softtokens.models.size import ModelSize
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
    for name in ("ids", "kind", "log_prob", "prompt_lengths"):
        assert torch.equal(getattr(parts, name), getattr(whole, name))
    assert parts.stored.keys() == whole.stored.keys() == thought.stores(32).keys()
    assert all(torch.equal(parts.stored[name], whole.stored[name]) for name in whole.stored)
    assert torch.equal(parts.keys.rollout, whole.keys.rollout)
    assert parts.answer_texts == whole.answer_texts and parts.stop_reasons == whole.stop_reasons


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
