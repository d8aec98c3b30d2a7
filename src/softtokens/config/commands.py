"""Configuration of the smaller commands: generate, replay-step, export, quickstart and report."""

from __future__ import annotations

import dataclasses
from typing import Literal

from softtokens.config.fields import require, require_choice
from softtokens.config.thought import NAMED_CELLS


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
    """Show what a model thinks about one question, and its answer."""

    question: str
    """The question; it is put into the prompt template."""
    model: str = "tiny"
    """A Hugging Face model folder or hub name, or a run directory; tiny is the checkpoint inside this package."""
    setting: str = "hard-greedy"
    """hard-greedy, hard-sample, soft-greedy, soft-sample, fuzzy-greedy, fuzzy-sample, or as-trained: as in the training
    run of the model."""
    template: str | None = None
    """Prompt text with {question} in it; by default the one that the model was trained with, or one for maths."""
    samples: int = 1
    """How many times to think."""
    gamma: float | None = None
    """Noise of the sampled soft and fuzzy settings; by default the paper's 0.33, as-trained that of the run."""
    max_thought_steps: int = 128
    """Thoughts end here at the latest."""
    max_answer_tokens: int = 32
    """Answers end here at the latest."""
    trace: bool = False
    """Show the heaviest tokens of each thought's mixture."""
    seed: int = 0
    """Seed of the samples."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights."""

    def __post_init__(self):
        require_choice("setting", self.setting, NAMED_CELLS)
        for name in ("samples", "max_thought_steps", "max_answer_tokens"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        allowed = self.gamma is None or 0 < self.gamma < 100
        require("gamma", self.gamma, allowed, "a number above 0 and below 100; the paper uses 0.33")
        require("seed", self.seed, 0 <= self.seed < 2**63, "in 0 .. 2**63 - 1")


@dataclasses.dataclass(frozen=True)
class ReplayStepConfig:
    """Run a training step again that was left out because its numbers were not finite, and show which they are."""

    case: str
    """The file that the run saved: RUN/repro/step-N.safetensors."""
    model: str | None = None
    """Another model to run it with; by default the one saved beside it."""
    rows: int = 10
    """How many rollouts to show, the worst first."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision; in float64 what only overflows or rounds badly in float32 disappears."""

    def __post_init__(self):
        require("rows", self.rows, self.rows >= 1, "at least 1")
        require_choice("dtype", self.dtype, ("float32", "float64"))


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Write a trained model as an ordinary Hugging Face folder; adapters are added into the weights."""

    model: str
    """A run directory (its best checkpoint), a checkpoint, or a folder of adapters."""
    output: str
    """The new folder."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the saved weights."""

    def __post_init__(self):
        require_choice("dtype", self.dtype, ("float32", "bfloat16"))


@dataclasses.dataclass(frozen=True)
class QuickstartConfig:
    """Train the embedded tiny model in hard, fuzzy and soft mode, and evaluate each in all six settings."""

    output: str = "runs/quickstart"
    """Directory for everything; it must be new."""
    seed: int = 0
    """Seed of all three runs and of the evaluation."""
    problems: int = 128
    """Held-out problems for the evaluation."""
    samples: int = 32
    """Samples per problem in the sampled settings."""
    steps: int | None = None
    """Updates of each run; by default 40. Fewer make it quick, and teach little."""

    def __post_init__(self):
        for name in ("problems", "samples"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        require("steps", self.steps, self.steps is None or self.steps >= 1, "at least 1, or left out")
        require("seed", self.seed, 0 <= self.seed < 2**63, "in 0 .. 2**63 - 1")


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Write one HTML page about training runs and evaluations; everything is inside it, and it needs no network."""

    runs: tuple[str, ...]
    """Folders of training runs, evaluations or signal, or folders that hold some (such as a quickstart), in any mix."""
    output: str | None = None
    """The page; by default report.html in the folder, or in the current one if several are given."""
    figures: str | None = None
    """Folder for every figure as PNG and SVG, and every figure and table as CSV (needs the plots extra)."""
    watch: bool = False
    """Write the page again whenever the files change, until Ctrl-C; the open page loads itself again."""

    def __post_init__(self):
        require("runs", "empty", bool(self.runs), "one folder or more: a training run, an evaluation, a quickstart")
