"""A cell: one setting of inference with its numbers. The named settings, grids around them, and each model as it was
trained."""

from __future__ import annotations

import dataclasses
import itertools

from softtokens.config.evaluate import EvaluateConfig
from softtokens.config.thought import AS_TRAINED, GRIDS, SETTINGS, ThoughtConfig


@dataclasses.dataclass(frozen=True)
class Cell:
    """setting: its name in `SETTINGS`, or as-trained. thought: how the model thinks, with the values of this cell."""

    setting: str
    thought: ThoughtConfig
    is_greedy: bool

    @property
    def temperature(self) -> float:
        """Temperature of drawn tokens (0: arg-max) or of the mixture."""
        family = self.thought.family
        is_arg_max = self.is_greedy and family.is_drawn and not family.has_gamma
        return 0.0 if is_arg_max else self.thought.temperature

    @property
    def gamma(self) -> float | None:
        """Noise level, or None without noise."""
        return self.thought.gamma if self.thought.family.has_gamma and not self.is_greedy else None

    @property
    def name(self) -> str:
        """The setting, with a suffix for values that are not its own: `hard-sample_T=0.6`."""
        if self.setting not in SETTINGS:
            return self.setting
        own, parts = SETTINGS[self.setting].thought, [self.setting]
        if self.thought.temperature != own.temperature:
            parts.append(f"{'tau' if own.family.has_gamma else 'T'}={self.temperature!r}")
        if self.gamma not in (None, own.gamma):
            parts.append(f"gamma={self.gamma!r}")
        return "_".join(parts)


def cells_of(config: EvaluateConfig, trained: ThoughtConfig | None = None) -> list[Cell]:
    """The cells of a model on each task, in the order of the settings. trained: the thought configuration of the
    model's training run; without it the model has no cell as-trained."""
    cells = []
    for name in config.settings:
        if name == AS_TRAINED:
            cells += [] if trained is None else [Cell(name, trained, is_greedy=False)]
            continue
        setting = SETTINGS[name]
        for values in itertools.product(*(getattr(config, grid) for grid in setting.grids)):
            changes = dict(zip((GRIDS[grid] for grid in setting.grids), values, strict=True))
            cells.append(Cell(name, dataclasses.replace(setting.thought, **changes), setting.is_greedy))
    return cells
