"""The checks of shapes are on while testing."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from jaxtyping import TypeCheckError

from conftest import checks_shapes
from softtokens import Limits, replay, sample_rollout
from softtokens.ops.mixture import draw
from softtokens.ops.random import Keys
from softtokens.ops.vocabulary import Vocabulary
from softtokens.rollout.machine import Slots
from softtokens.thoughts import Hard
from softtokens.train.objective import leave_one_out


@pytest.fixture(autouse=True)
def checked(request):
    if not checks_shapes(request.config):
        pytest.skip("shapes are not checked in a run with slow tests")


@pytest.fixture
def vocabulary():
    return Vocabulary(head=torch.zeros(5, 4), table=torch.zeros(5, 4), size=5, table_scale=2)


def test_shapes_that_an_annotation_does_not_allow_are_refused(vocabulary):
    with pytest.raises(TypeCheckError, match="rewards"):
        leave_one_out(torch.zeros(6))
    with pytest.raises(TypeCheckError, match="uniform"):
        draw(torch.ones(3, 5), torch.zeros(2, dtype=torch.float64))
    with pytest.raises(TypeCheckError, match="table"):
        Vocabulary(head=torch.zeros(5, 4), table=torch.zeros(6, 4), size=5)
    with pytest.raises(TypeCheckError, match="hidden"):
        Hard().at(torch.zeros(4), vocabulary)


def test_shapes_of_rollouts_are_checked(policy, prompts, vocabulary):
    keys = Keys(0, torch.zeros(2, dtype=torch.int64), torch.arange(2))
    rollout = sample_rollout(policy, Hard(), prompts, [0, 1], keys, Limits(3, 2))
    for name in ("kind", "log_prob"):
        with pytest.raises(TypeCheckError, match=name):
            dataclasses.replace(rollout, **{name: getattr(rollout, name)[:, 1:]})
    with pytest.raises(TypeCheckError, match="kind"):
        dataclasses.replace(rollout, kind=rollout.kind.float())
    scored = replay(policy, Hard(), rollout)
    with pytest.raises(TypeCheckError, match="is_thought_step"):
        dataclasses.replace(scored, is_thought_step=scored.is_thought_step[1:])
    slots = Slots.empty(3, vocabulary, seat=0)
    with pytest.raises(TypeCheckError, match="phase"):
        dataclasses.replace(slots, phase=slots.phase[:2])


def test_an_integer_stands_for_a_float(vocabulary):
    assert Hard(1).at(torch.zeros(3, 4), vocabulary).entropy().shape == (3,)
