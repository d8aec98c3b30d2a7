"""Group runs and models into arms: an arm is one way of training, with one member per seed."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

from softtokens.config.fields import flat, free_settings
from softtokens.config.train import TrainConfig
from softtokens.report.blocks import MODES
from softtokens.report.sources import Model, Run

T = TypeVar("T", Run, Model)
_NOT_THE_RECIPE = free_settings(TrainConfig) | {"seed"}


@dataclasses.dataclass(frozen=True)
class Arm(Generic[T]):
    """One way of training. Figures colour an arm by its mode; `dash` distinguishes arms of the same mode."""

    label: str
    mode: str
    members: list[T]
    dash: int = 0


def run_arms(runs: Sequence[Run]) -> list[Arm[Run]]:
    """Group runs whose configurations differ only in seed and output."""
    return _arms(runs, lambda run: recipe(run.config) if run.config else run.name)


def model_arms(models: Sequence[Model]) -> list[Arm[Model]]:
    """Group evaluated models that were trained alike except for the seed. A base model is an arm of its own."""
    return _arms(models, _trained_alike)


def recipe(config: dict[str, Any]) -> str:
    """The settings that affect what is learned, as a key."""
    return json.dumps({k: v for k, v in flat(config).items() if k not in _NOT_THE_RECIPE}, sort_keys=True)


def _trained_alike(model: Model) -> Hashable:
    if model.trained is None:
        return ("base", model.name)
    if model.run is not None and model.run.config:
        return recipe(model.run.config)
    training = {k: v for k, v in model.trained.items() if k not in ("seed", "run")}
    return json.dumps(training, sort_keys=True, default=str) if "seed" in model.trained else model.name


def _arms(members: Sequence[T], key: Callable[[T], Hashable]) -> list[Arm[T]]:
    groups: dict[tuple[Hashable, int], list[T]] = {}
    for member in members:
        group_key = key(member)
        same_seed = sum(m.seed == member.seed for k, group in groups.items() if k[0] == group_key for m in group)
        groups.setdefault((group_key, same_seed), []).append(member)  # a repeated seed starts another arm
    in_order = sorted(groups.values(), key=lambda group: (_rank(group[0].mode), group[0].name))
    labels = _labels(in_order)
    arms_of_mode: dict[str, int] = {}
    arms = []
    for label, group in zip(labels, in_order, strict=True):
        mode = group[0].mode
        arms.append(Arm(label, mode, group, arms_of_mode.get(mode, 0)))
        arms_of_mode[mode] = arms_of_mode.get(mode, 0) + 1
    return arms


def _rank(mode: str) -> int:
    return MODES.index(mode) if mode in MODES else len(MODES)


def _labels(groups: list[list[T]]) -> list[str]:
    """The mode of an arm where that is enough to identify it, otherwise what its members' names have in common."""
    modes = [group[0].mode for group in groups]
    labels = []
    for group in groups:
        mode = group[0].mode
        names = [member.name for member in group]
        common = os.path.commonprefix(names)  # noqa: RUF071 (letters of names, not parts of paths)
        common = common if common in names else common.removesuffix("seed").rstrip("-_. s")
        labels.append(mode if mode in MODES and modes.count(mode) == 1 else common or names[0])
    return [
        f"{label} · {group[0].name}" if labels.count(label) > 1 else label
        for label, group in zip(labels, groups, strict=True)
    ]
