"""Low-rank adapters (peft) on the linear layers of a model's blocks. Head and embedding table stay as they are: the
mixture of embeddings and the log-probabilities read these two directly."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path

import torch
from torch import nn

from softtokens.models.blocks import blocks
from softtokens.types import UserError

CONFIG_FILE = "adapter_config.json"


def add(model: nn.Module, rank: int, alpha: float | None, targets: tuple[str, ...], *, seed: int) -> None:
    """Put adapters that do nothing yet beside linear layers, and freeze everything else.

    targets: ends of the layers' names; none: every linear layer of the blocks. UserError when they fit nothing, or
    reach beyond the blocks; when there are no linear layers, or none that could use such a rank.
    """
    _require_peft()
    from peft import LoraConfig

    chosen = _linear_layers(model, targets)
    useful = max(min(model.get_submodule(name).weight.shape) for name in chosen)
    if rank > useful:
        raise UserError(f"lora_rank is {rank}; no layer of this model can use more than {useful}. Lower it.")
    torch.manual_seed(seed)  # the same in every process; nothing else here draws from it
    model.add_adapter(LoraConfig(r=rank, lora_alpha=2 * rank if alpha is None else alpha, target_modules=chosen))


def load(model: nn.Module, folder: Path, *, merge: bool) -> nn.Module:
    """The model with the adapters of a peft folder beside its layers; merge: added into its weights."""
    _require_peft()
    if not merge:
        model.load_adapter(str(folder), is_trainable=True)
        return model
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, for what peft asks it
        return PeftModel.from_pretrained(model, str(folder)).merge_and_unload().requires_grad_(True)


def add_as_in(model: nn.Module, folder: Path) -> None:
    """Adapters of the sizes of a peft folder's, without their weights."""
    base_of(folder)  # refuses what cannot be read
    settings = json.loads((folder / CONFIG_FILE).read_text())
    targets = settings.get("target_modules") or ()
    add(model, int(settings.get("r") or 1), None, () if isinstance(targets, str) else tuple(targets), seed=0)


def is_folder(path: Path) -> bool:
    """Whether a folder holds adapters and not a whole model."""
    return (path / CONFIG_FILE).is_file() and not (path / "config.json").is_file()


def base_of(folder: Path) -> str:
    """The folder or hub name of the model that adapters belong to."""
    try:
        base = json.loads((folder / CONFIG_FILE).read_text())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / CONFIG_FILE} cannot be read ({error}); it is not a peft folder") from error
    if not isinstance(base, str) or not base:
        raise UserError(f"{folder / CONFIG_FILE} names no base model (base_model_name_or_path)")
    return base


def has_adapters(model: nn.Module) -> bool:
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def _linear_layers(model: nn.Module, targets: tuple[str, ...]) -> list[str]:
    inside = {id(module) for block in blocks(model) for module in block.modules()}
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if not any(id(module) in inside for module in linear.values()):
        raise UserError(
            f"lora_rank is set, but the blocks of {type(model).__name__} have no linear layers (torch.nn.Linear) that "
            "adapters could be put beside; train all of its weights (lora_rank 0)"
        )
    ends = targets or tuple(linear)
    unknown = [end for end in ends if not any(_fits(name, end) for name in linear)]
    if unknown:
        raise UserError(
            f"lora_targets has {', '.join(unknown)}, which no linear layer's name ends in; this model's are "
            f"{', '.join(sorted({name.rpartition('.')[2] for name, m in linear.items() if id(m) in inside}))}"
        )
    chosen = [name for name in linear if any(_fits(name, end) for end in ends)]
    outside = [name for name in chosen if id(linear[name]) not in inside]
    if targets and outside:
        raise UserError(
            f"lora_targets reaches {', '.join(outside)}; head and embeddings cannot have adapters, because mixtures of "
            "embeddings read their weights directly"
        )
    return [name for name in chosen if id(linear[name]) in inside]


def _fits(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _require_peft() -> None:
    if importlib.util.find_spec("peft") is None:
        raise UserError("adapters need the peft package; pip install 'softtokens[lora]'")
