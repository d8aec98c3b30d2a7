"""Low-rank adapters (peft) on the linear layers of a model's blocks. Head and embedding table stay as they are: the
mixture of embeddings and the log-probabilities read these two directly."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from softtokens.files import expanded
from softtokens.models.blocks import blocks
from softtokens.types import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG_FILE = "adapter_config.json"


def add(model: PreTrainedModel, rank: int, alpha: float | None, targets: tuple[str, ...], *, seed: int) -> None:
    """Add adapters, which have no effect yet, to linear layers, and freeze everything else.

    targets: ends of the layers' names; none: every linear layer of the blocks. UserError when they fit nothing, or
    reach beyond the blocks; when there are no linear layers, or none that could use such a rank.
    """
    _require_peft()
    from peft import LoraConfig

    chosen = _linear_layers(model, targets)
    layers = (model.get_submodule(name) for name in chosen)
    useful = max(min(layer.in_features, layer.out_features) for layer in layers if isinstance(layer, nn.Linear))
    if rank > useful:
        raise UserError(f"lora_rank is {rank}; no layer of this model can use more than {useful}. Lower it.")
    torch.manual_seed(seed)  # same adapters in every process; nothing else uses the global generator
    scale: Any = 2 * rank if alpha is None else alpha  # peft takes fractions too, whatever its annotation
    model.add_adapter(LoraConfig(r=rank, lora_alpha=scale, target_modules=chosen))


def load(model: PreTrainedModel, folder: Path, *, merge: bool) -> PreTrainedModel:
    """The model with the adapters of a peft folder. merge: merge them into its weights. UserError if they are not
    adapters of this model."""
    _require_peft()
    if not merge:
        report = model.load_adapter(str(folder), is_trainable=True)
        if report is not None:  # older versions of transformers return no report
            shapes = [str(mismatched[0]) for mismatched in report.mismatched_keys]
            _require_fit(folder, model, report.missing_keys, report.unexpected_keys, shapes)
        return model
    from peft import PeftConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft calls a deprecated part of transformers
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # raised as an error below
        config = PeftConfig.from_pretrained(str(folder))
        config.base_model_name_or_path = model.name_or_path  # peft warns if the base has moved
        wrapped = get_peft_model(model, config)
        report = wrapped.load_adapter(str(folder), "default")
        _require_fit(folder, model, report.missing_keys, report.unexpected_keys, ())
        return wrapped.merge_and_unload().requires_grad_(True)


def _require_fit(
    folder: Path, model: PreTrainedModel, missing: Iterable[str], unexpected: Iterable[str], shapes: Iterable[str]
) -> None:
    misfit = Misfit(sorted(missing), sorted(unexpected), sorted(shapes))
    if misfit:
        raise UserError(
            f"the adapters in {str(folder)!r} do not fit their base ({type(model).__name__}, named in {CONFIG_FILE}): "
            f"in *.safetensors {misfit.in_words(misfit.unused)}. Save the adapters again, or name the model that they "
            "were trained on."
        )


@dataclasses.dataclass(frozen=True)
class Misfit:
    """How the weights in files differ from those of a model: names of missing ones, of unused ones, and of ones with
    another shape. True when anything does."""

    missing: list[str]
    unused: list[str]
    shapes: list[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unused or self.shapes)

    def in_words(self, unused: list[str]) -> str:
        """unused: all of them, also those that do no harm."""
        kinds = {"are missing": self.missing, "are unused": unused, "have another shape": self.shapes}
        parts = [f"{len(keys)} weights {what} ({a_few(keys)})" for what, keys in kinds.items() if keys]
        compiled = any("_orig_mod." in key for key in unused)
        return " and ".join(parts) + (
            "; _orig_mod. in front of names comes from torch.compile: save the model inside it" if compiled else ""
        )


def a_few(names: list[str]) -> str:
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")


def add_as_in(model: PreTrainedModel, folder: Path) -> None:
    """Add adapters with the sizes of those in a peft folder, without their weights."""
    base_of(folder)  # raises if the folder cannot be read
    settings = json.loads((folder / CONFIG_FILE).read_text())
    targets = settings.get("target_modules") or ()
    add(model, int(settings.get("r") or 1), None, () if isinstance(targets, str) else tuple(targets), seed=0)


def is_folder(path: Path) -> bool:
    """Whether a folder holds adapters. Some trainers also save the config.json of the base there."""
    return (path / CONFIG_FILE).is_file()


def base_of(folder: Path) -> str:
    """The folder or hub name of the model that adapters belong to; a relative path may start at their folder."""
    file = folder / CONFIG_FILE
    try:
        base = json.loads(file.read_text())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read ({error}); it is not a peft folder") from error
    if not isinstance(base, str) or not base:
        raise UserError(f"{file} names no base model (base_model_name_or_path)")
    places = [folder / expanded(base), Path(expanded(base))]
    place = next((place for place in places if place.is_dir()), None)
    if place is None and (trained := _model_of_run(folder)) is not None:
        return trained  # the recorded path belongs to another machine
    if place is None and (places[1].is_absolute() or base.startswith(".") or base.count("/") > 1):
        raise UserError(
            f"{file} names as its base model (base_model_name_or_path) {base!r}, a folder that does not exist; write "
            "there where the base is now, a path or a hub name"
        )
    return base if place is None else str(place.resolve())


def _model_of_run(checkpoint: Path) -> str | None:
    """The model that the checkpoint's run was started with, if it exists here."""
    try:
        name = json.loads((checkpoint.parent.parent / "config.json").read_text())["model"]
        return name if name == "tiny" or Path(expanded(name)).is_dir() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def has_adapters(model: PreTrainedModel) -> bool:
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def _linear_layers(model: PreTrainedModel, targets: tuple[str, ...]) -> list[str]:
    inside = {id(module) for block in blocks(model) for module in block.modules()}
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if not any(id(module) in inside for module in linear.values()):
        raise UserError(
            f"lora_rank is set, but the blocks of {type(model).__name__} have no linear layers (torch.nn.Linear) that "
            "adapters could be added to; train all of its weights (lora_rank 0)"
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
