"""Families of thoughts: what is fed back at a thought step. A new family is one new file here and one line in
`config.thought.FAMILIES`."""

from softtokens.thoughts.base import Draw, Thought, ThoughtDistribution
from softtokens.thoughts.dirichlet import Dirichlet
from softtokens.thoughts.divergence import kl
from softtokens.thoughts.gaussian import Gaussian
from softtokens.thoughts.gumbel import Gumbel
from softtokens.thoughts.hard import Hard
from softtokens.thoughts.mixture_of_inputs import MixtureOfInputs
from softtokens.thoughts.multiplex import Multiplex
from softtokens.thoughts.perturbed import HiddenGaussian, LogitGaussian
from softtokens.thoughts.presets import build_thought, thought_setting
from softtokens.thoughts.soft_thinking import SoftThinking

__all__ = [
    "Dirichlet",
    "Draw",
    "Gaussian",
    "Gumbel",
    "Hard",
    "HiddenGaussian",
    "LogitGaussian",
    "MixtureOfInputs",
    "Multiplex",
    "SoftThinking",
    "Thought",
    "ThoughtDistribution",
    "build_thought",
    "kl",
    "thought_setting",
]
