"""A cell: one setting of inference with its numbers. The six of the paper, and grids around them."""

from __future__ import annotations

import dataclasses

from softtokens.config.evaluate import PAPER_GAMMAS, EvaluateConfig
from softtokens.config.thought import MODE_TEMPERATURES


@dataclasses.dataclass(frozen=True)
class Cell:
    """temperature: of tokens in hard settings (0: arg-max), of the mixture in soft and fuzzy ones. gamma: noise, in
    units of the embedding table's root mean square; None where there is none."""

    setting: str
    temperature: float
    gamma: float | None

    @property
    def mode(self) -> str:
        return self.setting.split("-")[0]

    @property
    def is_greedy(self) -> bool:
        return self.setting.endswith("-greedy")

    @property
    def name(self) -> str:
        """The setting, with a suffix for values that are not the paper's: `hard-sample_T=0.6`."""
        paper = 0.0 if self.setting == "hard-greedy" else MODE_TEMPERATURES[self.mode]
        parts = [self.setting]
        if self.temperature != paper:
            parts.append(f"{'T' if self.mode == 'hard' else 'tau'}={self.temperature!r}")
        if self.gamma not in (None, *PAPER_GAMMAS):
            parts.append(f"gamma={self.gamma!r}")
        return "_".join(parts)


def cells_of(config: EvaluateConfig) -> list[Cell]:
    """The cells of each model and task, in the order of the settings."""
    cells = []
    for setting in config.settings:
        mode, kind = setting.split("-")
        greedy = kind == "greedy"
        if mode == "hard":
            temperatures = (0.0,) if greedy else config.temperatures
        else:
            temperatures = config.taus if mode == "soft" else (MODE_TEMPERATURES["fuzzy"],)
        gammas = (None,) if greedy or mode == "hard" else config.gammas
        cells += [Cell(setting, temperature, gamma) for temperature in temperatures for gamma in gammas]
    return cells
