"""Configuration of the smaller commands: generate, replay-step, export, quickstart and report."""

from __future__ import annotations

import dataclasses
from typing import Literal

import tyro

from softtokens.config.endings import EndingsConfig
from softtokens.config.fields import require, require_choice
from softtokens.config.task import template_variables
from softtokens.config.thought import NAMED_CELLS


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
    """Show a model's thoughts about one question, and its answer."""

    question: str
    """The question, which is inserted into the prompt template."""
    model: str = "tiny"
    """Hugging Face model folder or hub name, or a run directory; tiny is the checkpoint inside this package."""
    setting: str = "hard-greedy"
    """hard-greedy, hard-sample, soft-greedy, soft-sample, fuzzy-greedy, fuzzy-sample; multiplex-sample and so on: other families of thoughts (docs/families.md); as-trained: as in the model's training run."""
    template: str | None = None
    """Prompt text with {question} in it, of a chat the user's turn; by default the one the model was trained with, or one for maths."""
    chat: bool = False
    """Make the prompt with the tokenizer's chat template. A model that was trained with --chat needs no flag."""
    system: str | None = None
    """The system message of a chat; by default the one the model was trained with."""
    chat_kwargs: str = "{}"
    """A JSON object of variables for the chat template, such as {"enable_thinking": false}; by default those the model was trained with."""
    endings: tyro.conf.OmitArgPrefixes[EndingsConfig] = dataclasses.field(default_factory=EndingsConfig)
    samples: int = 1
    """Number of generations."""
    gamma: float | None = None
    """Noise level of the sampled soft and fuzzy settings; by default 0.33 (the paper's), or the run's for as-trained."""
    max_thought_steps: int = 128
    """Largest number of thoughts."""
    max_answer_tokens: int = 32
    """Largest number of answer tokens."""
    trace: bool = False
    """Show the heaviest tokens of each thought's mixture."""
    seed: int = 0
    """Seed of the samples."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights."""

    def __post_init__(self) -> None:
        require_choice("setting", self.setting, NAMED_CELLS)
        template_variables(self.chat_kwargs)
        for name in ("samples", "max_thought_steps", "max_answer_tokens"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        allowed = self.gamma is None or 0 < self.gamma < 100
        require("gamma", self.gamma, allowed, "a number above 0 and below 100; the paper uses 0.33")
        require("seed", self.seed, 0 <= self.seed < 2**63, "in 0 .. 2**63 - 1")


@dataclasses.dataclass(frozen=True)
class ReplayStepConfig:
    """Re-run a skipped training step and show which values were not finite."""

    case: str
    """The file that the run saved: RUN/repro/step-N.safetensors."""
    model: str | None = None
    """Another model to use; by default the one saved with the step."""
    rows: int = 10
    """Number of rollouts to show, worst first."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: Literal["float32", "float64"] = "float32"
    """Precision. What was only overflow or rounding in float32 disappears in float64."""

    def __post_init__(self) -> None:
        require("rows", self.rows, self.rows >= 1, "at least 1")
        require_choice("dtype", self.dtype, ("float32", "float64"))


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Write a trained model as an ordinary Hugging Face folder, with adapters merged into the weights."""

    model: str
    """A run directory (its best checkpoint), a checkpoint, or a folder of adapters."""
    output: str
    """The new folder."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the saved weights."""

    def __post_init__(self) -> None:
        require_choice("dtype", self.dtype, ("float32", "bfloat16"))


@dataclasses.dataclass(frozen=True)
class QuickstartConfig:
    """Train the embedded tiny model in hard, fuzzy and soft mode, and evaluate each model in all six settings."""

    output: str = "runs/quickstart"
    """New directory for everything."""
    seed: int = 0
    """Seed of all three runs and of the evaluation."""
    problems: int = 128
    """Number of test problems."""
    samples: int = 32
    """Samples per problem in the sampled settings."""
    steps: int | None = None
    """Updates of each run; by default 40. Fewer are quicker and teach little."""

    def __post_init__(self) -> None:
        for name in ("problems", "samples"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        require("steps", self.steps, self.steps is None or self.steps >= 1, "at least 1, or omitted")
        require("seed", self.seed, 0 <= self.seed < 2**63, "in 0 .. 2**63 - 1")


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Write one self-contained HTML page about training runs and evaluations."""

    runs: tuple[str, ...]
    """Folders of training runs, evaluations or signal measurements, or folders that contain some (such as a quickstart), in any mix."""
    output: str | None = None
    """The page; by default report.html in the folder, or in the current folder if several are given."""
    figures: str | None = None
    """Folder for every figure as PNG and SVG, and every figure and table as CSV (needs the plots extra)."""
    watch: bool = False
    """Rewrite the page whenever the files change, until Ctrl-C; the open page reloads."""

    def __post_init__(self) -> None:
        require("runs", "empty", bool(self.runs), "one folder or more: a training run, an evaluation, a quickstart")
