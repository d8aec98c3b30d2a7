"""How the model thinks: the families of thoughts, their temperatures, and the settings of inference."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from softtokens.config.fields import require, require_choice
from softtokens.types import UserError


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of thoughts, as far as the configuration knows it."""

    build: str
    """As "module:function": a function of (ThoughtConfig, embedding_rms, greedy) that returns the `Thought`. Named, not imported, because the configuration knows no torch."""
    temperature: float
    """The default of tau."""
    draws_tokens: bool = False
    """Whether its randomness is that of a drawn token (greedy: temperature 0), not that of noise (greedy: gamma 0)."""


FAMILIES: dict[str, Family] = {
    "hard": Family("softtokens.thoughts.presets:hard", 1.0, draws_tokens=True),
    "soft": Family("softtokens.thoughts.presets:mixture", 0.5),
    "fuzzy": Family("softtokens.thoughts.presets:mixture", 1e-4),
}
if TYPE_CHECKING:
    Mode = str  # type checkers cannot read the names from FAMILIES
else:
    Mode = Literal[tuple(FAMILIES)]


@dataclasses.dataclass(frozen=True)
class ThoughtConfig:
    """How the model thinks."""

    mode: Mode = "soft"
    """hard: sampled tokens. soft: mixtures of embeddings at temperature 0.5, plus noise. fuzzy: the same at temperature 0.0001."""
    tau: float | None = None
    """Temperature of thoughts; by default that of the mode (1, 0.5, 0.0001)."""
    gamma: float = 0.33
    """Noise level, in units of the embedding table's root mean square (noise on input), or absolute (other placements)."""
    noise: Literal["input", "hidden", "logits", "top-k"] = "input"
    """Where the noise is added: to the fed embedding (the method), or to the last hidden state, all logits or the top-k logits (the paper's ablations)."""
    top_k: int = 5
    """Number of logits that get noise when noise is top-k."""
    estimator: Literal["replay", "density"] = "replay"
    """Gradient estimator of thoughts. replay: score function with the stored noise, immune to rounding between sampler and trainer. density: log-density of the stored input."""
    table_in_mean: Literal["frozen", "trained"] = "trained"
    """Whether the thought term's gradient also reaches the embedding table through the mean of the mixture."""

    def __post_init__(self) -> None:
        require_choice("mode", self.mode, tuple(FAMILIES))
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
    def family(self) -> Family:
        return FAMILIES[self.mode]

    @property
    def temperature(self) -> float:
        return self.family.temperature if self.tau is None else self.tau


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting of inference."""

    thought: ThoughtConfig
    """How the model thinks in it."""
    is_greedy: bool = False
    """Take the arg-max token, or feed the mixture without noise."""
    grids: tuple[str, ...] = ()
    """The options of evaluate that vary one of its values, in `GRIDS`."""


GRIDS = {"temperatures": "tau", "taus": "tau", "gammas": "gamma"}  # option of evaluate -> field of ThoughtConfig
SETTINGS: dict[str, Setting] = {
    "hard-greedy": Setting(ThoughtConfig("hard"), is_greedy=True),
    "hard-sample": Setting(ThoughtConfig("hard"), grids=("temperatures",)),
    "soft-greedy": Setting(ThoughtConfig("soft"), is_greedy=True, grids=("taus",)),
    "soft-sample": Setting(ThoughtConfig("soft"), grids=("taus", "gammas")),
    "fuzzy-greedy": Setting(ThoughtConfig("fuzzy"), is_greedy=True),
    "fuzzy-sample": Setting(ThoughtConfig("fuzzy"), grids=("gammas",)),
}
ALL_SETTINGS = tuple(SETTINGS)
AS_TRAINED = "as-trained"  # the thought configuration of each model's own run, sampled
NAMED_CELLS = (*ALL_SETTINGS, AS_TRAINED)  # what reports have columns for
