"""The embedding table of a transformers model, in which thoughts are mixed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def table_of(model: PreTrainedModel) -> Tensor:
    """[vocab, dim], the parameter itself."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor), type(weight)
    return weight
