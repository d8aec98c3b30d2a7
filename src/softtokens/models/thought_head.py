"""The parameters of a family of thoughts: submodule `thought_head` of the model, saved in a file of its own.

As part of the model they are trained, sharded, copied for rollouts and fingerprinted with it. The separate file keeps
the folder an ordinary checkpoint. Only the family knows which module they belong to; until it is known, the model holds
`Unclaimed` parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from softtokens.models.table import table_of
from softtokens.types import UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILE = "thought_head.safetensors"
NAME = "thought_head"
_PREFIX = f"{NAME}."


class Unclaimed(nn.Module):
    """Saved parameters under their names, not trained."""

    def __init__(self, tensors: dict[str, Tensor]):
        super().__init__()
        for name, tensor in tensors.items():
            *path, leaf = name.split(".")
            module: nn.Module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))


def head_of(model: nn.Module) -> nn.Module | None:
    return model._modules.get(NAME)


def require(model: PreTrainedModel, make: Callable[[int], nn.Module | None], *, seed: int | None = None) -> None:
    """Make the model's thought head the module that `make` gives for the width of its embeddings, with the parameters
    that the model has. make: `Thought.new_head`; where it gives none, nothing changes. seed: of a new head where the
    model has none. UserError where it has none without a seed, or has parameters of another module."""
    table = table_of(model)
    head, own = _made(make, table.shape[1], 0 if seed is None else seed), head_of(model)
    if head is None:
        return
    if own is None and seed is None:
        raise UserError(
            f"the model has no thought head ({FILE}), which these thoughts need; give one that was trained with them"
        )
    head.to(device=table.device, dtype=table.dtype)
    if own is not None:
        try:
            head.load_state_dict(own.state_dict())
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"the model's thought head ({FILE}) does not fit these thoughts: {reason} Give a model that was "
                "trained with them."
            ) from error
    setattr(model, NAME, head.eval().requires_grad_(True))


def split(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A model's weights without those of the thought head, and those of the head by their names in it."""
    rest = {name: x for name, x in weights.items() if not name.startswith(_PREFIX)}
    return rest, {name.removeprefix(_PREFIX): x for name, x in weights.items() if name.startswith(_PREFIX)}


def save(weights: dict[str, Tensor], folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: x.detach().cpu().contiguous() for name, x in weights.items()}, folder / FILE)


def load(model: PreTrainedModel, folder: Path) -> None:
    """Give the model the parameters in a folder, in its own precision. UserError when the file is missing or broken."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / FILE
    if not file.is_file():
        raise UserError(f"model folder {str(folder)!r} is missing its {FILE}; copy the whole checkpoint")
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read ({first_line(error)}); copy the whole checkpoint") from error
    if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise UserError(f"{file} has numbers that are not finite in {broken[0]}; use an earlier checkpoint")
    table = table_of(model)
    setattr(model, NAME, Unclaimed({name: x.to(table.device, table.dtype) for name, x in tensors.items()}))


def _made(make: Callable[[int], nn.Module | None], dim: int, seed: int) -> nn.Module | None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(dim)
