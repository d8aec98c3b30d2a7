"""The checks of shapes are on while testing."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from softtokens.ops.mixture import draw
from softtokens.ops.vocabulary import Vocabulary
from softtokens.thoughts import Hard
from softtokens.train.objective import leave_one_out


def test_shapes_that_an_annotation_does_not_allow_are_refused():
    with pytest.raises(TypeCheckError, match="rewards"):
        leave_one_out(torch.zeros(6))
    with pytest.raises(TypeCheckError, match="uniform"):
        draw(torch.ones(3, 5), torch.zeros(2, dtype=torch.float64))
    with pytest.raises(TypeCheckError, match="table"):
        Vocabulary(head=torch.zeros(5, 4), table=torch.zeros(6, 4), size=5)
    vocabulary = Vocabulary(head=torch.zeros(5, 4), table=torch.zeros(5, 4), size=5)
    with pytest.raises(TypeCheckError, match="hidden"):
        Hard().at(torch.zeros(4), vocabulary)


def test_an_integer_stands_for_a_float():
    vocabulary = Vocabulary(head=torch.zeros(5, 4), table=torch.zeros(5, 4), size=5, table_scale=2)
    assert Hard(1).at(torch.zeros(3, 4), vocabulary).entropy().shape == (3,)
