"""How the model thinks: the three modes, their temperatures, and the six settings of inference."""

from __future__ import annotations

import dataclasses
from typing import Literal

from softtokens.config.fields import require, require_choice
from softtokens.types import UserError

Mode = Literal["hard", "soft", "fuzzy"]
MODE_TEMPERATURES = {"hard": 1.0, "soft": 0.5, "fuzzy": 1e-4}
ALL_SETTINGS = ("hard-greedy", "hard-sample", "soft-greedy", "soft-sample", "fuzzy-greedy", "fuzzy-sample")


@dataclasses.dataclass(frozen=True)
class ThoughtConfig:
    """How the model thinks."""

    mode: Mode = "soft"
    """hard: tokens. soft: mixtures of embeddings at temperature 0.5 plus noise. fuzzy: the same at 0.0001."""
    tau: float | None = None
    """Temperature of thoughts; by default that of the mode (1, 0.5, 0.0001)."""
    gamma: float = 0.33
    """Noise, in units of the embedding table's root mean square (noise on input); absolute for the other placements."""
    noise: Literal["input", "hidden", "logits", "top-k"] = "input"
    """Where the noise goes: on the fed embedding (the method), or further up (the paper's ablations)."""
    top_k: int = 5
    """How many logits get noise when noise is top-k."""
    estimator: Literal["replay", "density"] = "replay"
    """Which expression of the thought's log-probability carries the gradient: replayed noise, or density."""
    table_in_mean: Literal["frozen", "trained"] = "trained"
    """Whether the mean of a thought also learns by the embedding table moving inside it."""

    def __post_init__(self):
        require_choice("mode", self.mode, tuple(MODE_TEMPERATURES))
        require_choice("noise", self.noise, ("input", "hidden", "logits", "top-k"))
        require_choice("estimator", self.estimator, ("replay", "density"))
        require_choice("table_in_mean", self.table_in_mean, ("frozen", "trained"))
        require("tau", self.tau, self.tau is None or 0 < self.tau < 100, "a number above 0 and below 100")
        require("gamma", self.gamma, 0 <= self.gamma < 100, "0 (no noise) or a number below 100; the paper uses 0.33")
        require("top_k", self.top_k, self.top_k >= 1, "at least 1")
        if self.estimator == "density" and self.noise != "input":
            raise UserError(
                f"estimator is density with noise on {self.noise}: only noise on the input stores the value whose "
                "density is taken. Use estimator replay."
            )

    @property
    def temperature(self) -> float:
        return MODE_TEMPERATURES[self.mode] if self.tau is None else self.tau
