"""Thoughts by name: the three modes of training and the six settings of evaluation."""

from __future__ import annotations

from softtokens.config.thought import ALL_SETTINGS, ThoughtConfig
from softtokens.thoughts.base import Thought
from softtokens.thoughts.gaussian import Gaussian
from softtokens.thoughts.hard import Hard
from softtokens.thoughts.perturbed import HiddenGaussian, LogitGaussian

# where the noise goes -> the family, given the configuration and the unit of gamma
PLACEMENTS = {
    "input": lambda c, tau, unit: Gaussian(tau, c.gamma * unit, c.estimator, c.table_in_mean),
    "hidden": lambda c, tau, unit: HiddenGaussian(tau, c.gamma),
    "logits": lambda c, tau, unit: LogitGaussian(tau, c.gamma),
    "top-k": lambda c, tau, unit: LogitGaussian(tau, c.gamma, c.top_k),
}


def build_thought(config: ThoughtConfig, embedding_rms: float, *, greedy: bool = False) -> Thought:
    """The thought a configuration describes.

    embedding_rms: root mean square over all entries of the embedding table at the start of training; gamma counts in
    it when the noise is on the input. greedy: the arg-max token, or the mixture without noise.
    """
    if config.mode == "hard":
        return Hard(0.0 if greedy else config.temperature)
    if greedy:
        return Gaussian(config.temperature, 0.0)
    return PLACEMENTS[config.noise](config, config.temperature, embedding_rms)


def thought_setting(name: str, embedding_rms: float, *, gamma: float = 0.33) -> Thought:
    """One of the paper's six settings of inference, such as `soft-sample`."""
    if name not in ALL_SETTINGS:
        raise ValueError(f"setting is {name!r}; it must be one of {', '.join(ALL_SETTINGS)}")
    mode, kind = name.split("-")
    return build_thought(ThoughtConfig(mode=mode, gamma=gamma), embedding_rms, greedy=kind == "greedy")
