"""Configuration of `evaluate` and `compare`. Knows no torch, so that help is instant."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

import tyro

from softtokens.config.endings import EndingsConfig
from softtokens.config.fields import require, require_choice
from softtokens.config.task import TaskConfig
from softtokens.config.thought import FAMILIES, NAMED_CELLS, PAPER_SETTINGS, SETTINGS
from softtokens.types import UserError

PAPER_TEMPERATURES, PAPER_TAUS, PAPER_GAMMAS = (FAMILIES["hard"].temperature,), (FAMILIES["soft"].temperature,), (0.33,)
METRIC = re.compile(r"(pass|maj)@([1-9][0-9]*)", re.ASCII)
CHOICE_METRICS = ("accuracy", "accuracy_normalized", "nll_per_token")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluate models in the paper's six settings of inference on any number of tasks: pass@k and maj@k with intervals.

        softtokens evaluate --models tiny runs/hard runs/soft --task arithmetic --limit 128 --output runs/eval

    makes one cell per model, task and setting. After an interruption, the same command continues. With other models,
    tasks or settings, or more samples, it adds to the folder. Answers are greedy. `softtokens compare runs/eval
    --against tiny` then shows which differences are more than chance.
    """

    models: tuple[str, ...] = ("tiny",)
    """Hugging Face model folders, hub names, or run directories (their best checkpoint); tiny is inside the package. NAME=PATH names a model."""
    task: tyro.conf.OmitArgPrefixes[TaskConfig] = dataclasses.field(default_factory=TaskConfig)
    endings: tyro.conf.OmitArgPrefixes[EndingsConfig] = dataclasses.field(default_factory=EndingsConfig)
    tasks: tuple[str, ...] = ()
    """Several tasks instead of --task; they share its options. Add tasks that need other options with a second command on the same folder."""
    settings: tuple[str, ...] = PAPER_SETTINGS
    """Settings to evaluate: hard-greedy, hard-sample, soft-greedy, soft-sample, fuzzy-greedy, fuzzy-sample; multiplex-sample and so on: other families of thoughts (docs/families.md); as-trained: each model thinks as in its own training run, sampled."""
    samples: int = 32
    """Samples per problem in the sampled settings; pass@k is reported for k up to this number. Greedy settings take one. Samples beyond those in the folder are added to them."""
    temperatures: tuple[float, ...] = PAPER_TEMPERATURES
    """Temperatures of hard-sample and of other settings that draw tokens, one cell each; 0.2 0.6 1.0 1.4 is a good grid (the paper: 1)."""
    gammas: tuple[float, ...] = PAPER_GAMMAS
    """Noise levels of the soft and fuzzy sampled settings, in units of the embedding table's root mean square, one cell each; 0.1 0.33 1.0 is a good grid (the paper: 0.33)."""
    taus: tuple[float, ...] = PAPER_TAUS
    """Temperatures of the mixture in the soft settings, one cell each (the paper: 0.5; fuzzy is soft at 0.0001)."""
    max_thought_steps: int = 512
    """Largest number of thoughts."""
    max_answer_tokens: int = 32
    """Largest number of answer tokens."""
    profile: int = 0
    """Measure entropy, softness and noise of each thought step on this many generations per cell."""
    traces: int = 0
    """Record every thought step of this many problems per cell, for the report's trace viewer."""
    choices: tuple[str, ...] = ()
    """Out of domain: accuracy and NLL of multiple-choice items: facts, or files with columns question, choices, answer. NAME=FILE names a file."""
    choices_limit: int | None = None
    """Use only the first this many items of each set; by default 200 facts, or all of a file. Shuffle a file that is sorted by subject, such as MMLU's, before."""
    harness: tuple[str, ...] = ()
    """Out of domain, through lm-eval: multiple-choice tasks by name, such as hellaswag or arc_challenge (needs the harness extra)."""
    harness_tasks: str | None = None
    """Folder with YAML files of your own lm-eval tasks."""
    texts: str | None = None
    """Preservation: KL, top-1 agreement and NLL difference to the base on these texts (a text file, one per line, or a data file with a column text)."""
    base: str | None = None
    """Name of the model that the others are compared with on these texts; by default the first."""
    seed: int = 0
    """Seed of the samples."""
    rows_per_batch: int | None = None
    """Samples that run at the same time; a new one starts when one ends. By default as many as memory allows. Does not change what is sampled."""
    decoding: Literal["auto", "plain", "compiled"] = "auto"
    """compiled: decode with torch.compile, which takes a minute or two per mode at the start. plain: without. auto: compiled on a CPU if there are enough decode steps (about 20,000, plus 20,000 per mode). On a GPU, steps are recorded as CUDA graphs unless plain is chosen."""
    memory: float | None = None
    """Memory for a batch in GB; by default 80 % of the accelerator's free memory, or a quarter of the machine's. When memory runs out, the batch is halved."""
    output: str = "runs/evaluation"
    """Folder for all results (docs/evaluation.md): a new one, or one of an evaluation to continue."""
    rank: int | None = None
    """Do only this part of the work, counted from 0, with --world: for job arrays. Under torchrun or srun the processes share the work by themselves."""
    world: int | None = None
    """Number of parts, each done by one process."""
    mask_unused: bool = True
    """Exclude vocabulary rows that no token owns. --no-mask-unused allows them to be sampled."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights; mixtures and logits are always float32."""

    def __post_init__(self) -> None:
        require("models", "empty", bool(self.models), "one or more model folders or hub names")
        require("settings", "empty", bool(self.settings), "one or more of " + ", ".join(NAMED_CELLS))
        for setting in self.settings:
            require_choice("settings", setting, NAMED_CELLS)
        for name in ("models", "tasks", "settings", "temperatures", "gammas", "taus", "choices", "harness"):
            _require_distinct(name, getattr(self, name))
        for name in ("samples", "max_thought_steps", "max_answer_tokens"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        require("samples", self.samples, self.samples < 2**31, "below 2**31")
        for name in ("profile", "traces"):
            require(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        for name in ("rows_per_batch", "choices_limit"):
            require(name, getattr(self, name), getattr(self, name) is None or getattr(self, name) >= 1, "1 or more")
        require("memory", self.memory, self.memory is None or 0 < self.memory < float("inf"), "a positive number of GB")
        self._check_grids()
        require("seed", self.seed, 0 <= self.seed < 2**63, "in 0 .. 2**63 - 1")
        require_choice("dtype", self.dtype, ("float32", "bfloat16"))
        if (self.rank is None) != (self.world is None):
            raise UserError("rank and world belong together; give both, such as --rank 0 --world 8")
        if self.world is not None and self.rank is not None:
            require("world", self.world, self.world >= 1, "at least 1")
            require("rank", self.rank, 0 <= self.rank < self.world, f"in 0 .. world - 1, which is {self.world - 1}")
        require_choice("decoding", self.decoding, ("auto", "plain", "compiled"))
        if self.harness_tasks is not None and not self.harness:
            raise UserError("harness_tasks is given without harness; name the tasks of the folder with --harness")
        if self.base is not None and self.texts is None:
            raise UserError(f"base is {self.base!r} without texts; name a file of texts with --texts, or drop --base")

    def _check_grids(self) -> None:
        papers = {"temperatures": PAPER_TEMPERATURES, "gammas": PAPER_GAMMAS, "taus": PAPER_TAUS}
        for name, paper in papers.items():
            values, users = getattr(self, name), [one for one, setting in SETTINGS.items() if name in setting.grids]
            require(name, "empty", bool(values), "one or more numbers")
            for value in values:
                require(name, value, 0 < value < 100, f"numbers above 0 and below 100; the paper uses {paper[0]}")
            if values != paper and not set(users) & set(self.settings):
                raise UserError(
                    f"{name} is given, but none of the settings uses it; add {' or '.join(users)} to settings, or "
                    f"drop {name}"
                )

    @property
    def task_configs(self) -> tuple[TaskConfig, ...]:
        """One configuration per task."""
        if not self.tasks:
            return (self.task,)
        return tuple(dataclasses.replace(self.task, name=name) for name in self.tasks)


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Compare the cells of an evaluation, paired over problems: difference, 95 % interval, p-value.

        softtokens compare runs/eval --against base                    every model with base, in each setting
        softtokens compare runs/eval --against hard-sample             every setting with hard-sample, for each model
        softtokens compare runs/eval --against base/hard-sample        everything with this one cell
        softtokens compare runs/eval --against base --best             every model with base, each at its best values

    p-values come from a sign-flip test, and are corrected for the number of comparisons shown (Holm).
    """

    evaluation: str
    """Folder that softtokens evaluate wrote."""
    against: str | None = None
    """A model, a cell (setting), or MODEL/CELL; by default the first model."""
    metrics: tuple[str, ...] = ("pass@1",)
    """pass@K or maj@K; for multiple choice accuracy, accuracy_normalized, nll_per_token."""
    models: tuple[str, ...] = ()
    """Only these models; by default all."""
    tasks: tuple[str, ...] = ()
    """Only these tasks (or names of multiple-choice sets); by default all."""
    cells: tuple[str, ...] = ()
    """Only these cells; by default all."""
    best: bool = False
    """Compare each model at its best cell of a grid (temperatures, gammas, taus). The cell is chosen on one half of the problems and measured on the other, and vice versa, so the choice adds no bias."""
    output: str | None = None
    """Also write the comparisons to this JSON file."""

    def __post_init__(self) -> None:
        require("metrics", "empty", bool(self.metrics), "one or more, such as pass@1")
        for metric in self.metrics:
            allowed = METRIC.fullmatch(metric) or metric in CHOICE_METRICS
            require("metrics", repr(metric), bool(allowed), "pass@K, maj@K, " + ", ".join(CHOICE_METRICS))
        for name in ("metrics", "models", "tasks", "cells"):
            _require_distinct(name, getattr(self, name))


def _require_distinct(name: str, values: tuple) -> None:
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise UserError(f"{name} has {twice!r} more than once; list each once")
