"""Thoughts by configuration, and by the name of a setting of inference."""

from __future__ import annotations

import dataclasses
import importlib

from softtokens.config.thought import SETTINGS, ThoughtConfig
from softtokens.thoughts.base import Thought
from softtokens.thoughts.gaussian import Gaussian
from softtokens.thoughts.hard import Hard
from softtokens.thoughts.perturbed import HiddenGaussian, LogitGaussian

# where the noise goes -> the thought, given the configuration and the unit of gamma
_PLACEMENTS = {
    "input": lambda c, unit: Gaussian(c.temperature, c.gamma * unit, c.estimator, c.table_in_mean),
    "hidden": lambda c, unit: HiddenGaussian(c.temperature, c.gamma),
    "logits": lambda c, unit: LogitGaussian(c.temperature, c.gamma),
    "top-k": lambda c, unit: LogitGaussian(c.temperature, c.gamma, c.top_k),
}


def build_thought(config: ThoughtConfig, embedding_rms: float, *, greedy: bool = False) -> Thought:
    """The thought that a configuration describes, of the family in `config.thought.FAMILIES`.

    embedding_rms: root mean square over all entries of the embedding table at the start of training; gamma counts in
    it when the noise is on the input. greedy: the arg-max token, or the mixture without noise.
    """
    module, _, function = config.family.build.partition(":")
    return getattr(importlib.import_module(module), function)(config, embedding_rms, greedy)


def hard(config: ThoughtConfig, embedding_rms: float, greedy: bool) -> Hard:
    del embedding_rms
    return Hard(0.0 if greedy else config.temperature)


def mixture(config: ThoughtConfig, embedding_rms: float, greedy: bool) -> Thought:
    return Gaussian(config.temperature, 0.0) if greedy else _PLACEMENTS[config.noise](config, embedding_rms)


def thought_setting(name: str, embedding_rms: float, *, gamma: float = 0.33) -> Thought:
    """One of the settings of inference by name, such as `soft-sample`. gamma: where the setting has noise."""
    if name not in SETTINGS:
        raise ValueError(f"setting is {name!r}; it must be one of {', '.join(SETTINGS)}")
    setting = SETTINGS[name]
    return build_thought(dataclasses.replace(setting.thought, gamma=gamma), embedding_rms, greedy=setting.is_greedy)
