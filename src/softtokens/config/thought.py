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
    options: tuple[str, ...] = ()
    """The fields of `ThoughtConfig`, besides tau, that it depends on and that names of settings show."""
    is_drawn: bool = True
    """Whether a thought is drawn. Otherwise it has no likelihood: the family is for inference only."""
    mixes_table: bool = False
    """Whether every step multiplies weights with the whole embedding table, which takes time and memory."""

    @property
    def has_gamma(self) -> bool:
        """Whether its randomness is added noise of size gamma. Otherwise it is drawn at temperature tau."""
        return "gamma" in self.options


FAMILIES: dict[str, Family] = {
    "hard": Family("softtokens.thoughts.presets:hard", 1.0),
    "soft": Family("softtokens.thoughts.presets:mixture", 0.5, ("gamma",), mixes_table=True),
    "fuzzy": Family("softtokens.thoughts.presets:mixture", 1e-4, ("gamma",), mixes_table=True),
    "multiplex": Family("softtokens.thoughts.multiplex:build", 1.0, ("width",)),
    "gumbel": Family("softtokens.thoughts.gumbel:build", 1.0, ("top_k", "weight_temperature")),
    "dirichlet": Family("softtokens.thoughts.dirichlet:build", 1.0, ("top_k", "concentration")),
    "moi": Family("softtokens.thoughts.mixture_of_inputs:build", 1.0, ("top_k", "moi_beta")),
    "soft-thinking": Family("softtokens.thoughts.soft_thinking:build", 1.0, ("top_k",), is_drawn=False),
}


def require_drawn(mode: str) -> None:
    """Raise UserError for a family that cannot be trained."""
    if not FAMILIES[mode].is_drawn:
        allowed = ", ".join(name for name, family in FAMILIES.items() if family.is_drawn)
        raise UserError(
            f"mode is {mode}, but {mode} draws nothing, so it has no likelihood and nothing to learn from; it is for "
            f"evaluate and generate. Train with {allowed}."
        )


if TYPE_CHECKING:
    Mode = str  # type checkers cannot read the names from FAMILIES
else:
    Mode = Literal[tuple(FAMILIES)]


@dataclasses.dataclass(frozen=True)
class ThoughtConfig:
    """How the model thinks."""

    mode: Mode = "soft"
    """hard: sampled tokens. soft: mixtures of embeddings at temperature 0.5, plus noise. fuzzy: the same at temperature 0.0001. multiplex: the mean of several sampled tokens. gumbel, dirichlet: mixtures of a few tokens with random weights. moi: a sampled token blended with the likeliest ones (mixture of inputs). soft-thinking: the likeliest tokens, without randomness, for inference only."""
    tau: float | None = None
    """Temperature of thoughts; by default that of the mode (0.5 for soft, 0.0001 for fuzzy, 1 for the others)."""
    gamma: float = 0.33
    """Noise level of soft and fuzzy, in units of the embedding table's root mean square (noise on input), or absolute (other placements)."""
    noise: Literal["input", "hidden", "logits", "top-k"] = "input"
    """Where the noise is added: to the fed embedding (the method), or to the last hidden state, all logits or the top-k logits (the paper's ablations)."""
    top_k: int = 5
    """Number of tokens in a thought of mode gumbel, dirichlet or soft-thinking, or blended with the sampled one in mode moi; number of logits that get noise when noise is top-k."""
    width: int = 3
    """Number of tokens in a thought of mode multiplex; with 1 it is that of mode hard."""
    weight_temperature: float = 0.1
    """Temperature of the softmax over noisy log-probabilities of mode gumbel; toward 0 a thought becomes one token, that of mode hard."""
    concentration: float = 1.0
    """Concentration of the weights of mode dirichlet around the probabilities of their tokens: large means little noise, small means nearly one token."""
    moi_beta: float = 1.0
    """How much the sampled token of mode moi outweighs the others: 0 or more; large means nearly hard."""
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
        for name in ("top_k", "width"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        low, high = 1e-6, 1e6
        for name in ("weight_temperature", "concentration"):
            require(name, getattr(self, name), low <= getattr(self, name) <= high, f"in {low:g} .. {high:g}")
        require("moi_beta", self.moi_beta, 0 <= self.moi_beta <= high, f"in 0 .. {high:g}")
        if self.estimator == "density" and self.noise != "input":
            raise UserError(
                f"estimator is density with noise on {self.noise}: that estimator exists for noise on the input only. "
                "Use estimator replay."
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
PAPER_SETTINGS = tuple(SETTINGS)  # the paper's six
SETTINGS |= {
    f"{mode}-{'sample' if family.is_drawn else 'greedy'}": Setting(
        ThoughtConfig(mode), is_greedy=not family.is_drawn, grids=("temperatures",)
    )
    for mode, family in FAMILIES.items()
    if f"{mode}-sample" not in SETTINGS
}
AS_TRAINED = "as-trained"  # the thought configuration of each model's own run, sampled
NAMED_CELLS = (*SETTINGS, AS_TRAINED)  # what reports have columns for
