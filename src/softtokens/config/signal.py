"""Configuration of `softtokens signal`. Knows no torch."""

from __future__ import annotations

import dataclasses

from softtokens.config.fields import require, require_choice
from softtokens.config.thought import FAMILIES, Mode, ThoughtConfig, require_drawn
from softtokens.config.train import TrainConfig
from softtokens.types import UserError

FEWEST_BATCHES = 3  # errors come from leaving one batch out; with two, no pair would be left
SMALLEST_SKETCH = 64


@dataclasses.dataclass(frozen=True)
class SignalConfig(TrainConfig):
    """Measure how much of a training run's gradient is signal, before the run. Takes the flags of train.

        softtokens signal --task arithmetic --modes hard soft fuzzy --problems-per-step 8 --group-size 16

    Each setting samples the first batches of such a run and compares their gradients; no weight changes.
    With --from RUN@STEP it measures a run in progress.
    """

    output: str | None = None  # type: ignore[assignment]  # a run needs a folder, a measurement does not
    """New folder for signal.json, which softtokens report shows; by default nothing is written."""
    modes: tuple[Mode, ...] = ()
    """Modes to compare, one setting each, at their own temperatures; by default the one of --mode and --tau."""
    taus: tuple[float, ...] = ()
    """Temperatures of the mixture, one setting each: of fuzzy, or of soft if fuzzy is not among the modes."""
    gammas: tuple[float, ...] = ()
    """Noise levels, one setting each for every soft or fuzzy mode; by default that of --gamma."""
    batches: int = 8
    """Independent batches per setting, at least 3. The error falls with their number."""
    sketch: int | None = None
    """Keep a sketch of this many numbers of each gradient, at least 64; cosines are off by 1 / sqrt(sketch). By default gradients are kept whole if they fit into memory, and as sketches of 1,048,576 numbers otherwise."""
    memory: float | None = None
    """Main memory for gradients or sketches in GB; by default a quarter of the machine's."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("batches", self.batches, self.batches >= FEWEST_BATCHES, f"at least {FEWEST_BATCHES}")
        if self.sketch is not None:
            most = 2**31
            require("sketch", self.sketch, SMALLEST_SKETCH <= self.sketch < most, f"at least {SMALLEST_SKETCH}")
        require("memory", self.memory, self.memory is None or 0 < self.memory < float("inf"), "a positive number of GB")
        for name in ("modes", "taus", "gammas"):
            values = getattr(self, name)
            require(name, values, len(set(values)) == len(values), "values that all differ")
        for mode in self.modes:
            require_choice("modes", mode, tuple(FAMILIES))
            require_drawn(mode)
        for tau in self.taus:
            require("taus", tau, 0 < tau < 100, "numbers above 0 and below 100")
        for gamma in self.gammas:
            require(
                "gammas", gamma, 0 < gamma < 100,
                "numbers above 0 and below 100: thoughts without noise have no log-probability, so no gradient",
            )  # fmt: skip
        if self.modes and self.thought.tau is not None:
            raise UserError(
                f"tau is {self.thought.tau} and modes are given; tau would apply to all of them. Give --taus instead"
            )
        if (self.taus or self.gammas) and not any(FAMILIES[mode].has_gamma for mode in self._modes):
            raise UserError("taus or gammas is given, but soft and fuzzy are not among the modes; add one, or drop it")

    @property
    def _modes(self) -> tuple[Mode, ...]:
        return self.modes or (self.thought.mode,)

    @property
    def settings(self) -> list[ThoughtConfig]:
        """The thought configurations to measure, in order."""
        modes = self._modes
        swept = "fuzzy" if "fuzzy" in modes else "soft"
        return [
            dataclasses.replace(self.thought, mode=mode, tau=tau, gamma=gamma)
            for mode in modes
            for tau in (self.taus if mode == swept and self.taus else (self.thought.tau,))
            for gamma in (self.gammas if FAMILIES[mode].has_gamma and self.gammas else (self.thought.gamma,))
        ]
