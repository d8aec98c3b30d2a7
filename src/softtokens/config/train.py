"""Configuration of `softtokens train`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import tyro

from softtokens.config.endings import EndingsConfig
from softtokens.config.fields import FREE, require, require_choice
from softtokens.config.scale import ScaleConfig
from softtokens.config.task import TaskConfig
from softtokens.config.thought import NAMED_CELLS, SETTINGS, ThoughtConfig, require_drawn
from softtokens.types import UserError, Verdict

MOST_ROLLOUTS_PER_STEP = 1_000_000  # a step lists them all; a larger number is a typing error


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """Rewards, on the paper's scale: an answer that can be read earns something even if it is wrong."""

    right: float = 100.0
    """Reward of a right answer."""
    wrong: float = 10.0
    r"""Reward of a wrong answer in a finished \boxed{...}."""
    none: float = 0.0
    r"""Reward if there is no finished \boxed{...}, or if the grader fails on the answer (time-out, error)."""
    functions: tuple[str, ...] = ()
    """What the reward is the weighted sum of: grade (the grader, on the scale above), format, length, or your own as MODULE:FUNCTION, such as rewards.py:f. By default grade alone (docs/rewards.md)."""
    weights: tuple[float, ...] = ()
    """A weight for each of the functions; by default 1."""

    def __post_init__(self) -> None:
        for name in ("right", "wrong", "none"):
            value = getattr(self, name)
            require(f"reward.{name}", value, abs(value) < float("inf"), "a finite number")
        for name in self.functions:
            if self.functions.count(name) > 1:
                raise UserError(f"reward.functions has {name!r} more than once; give it one weight instead")
        if self.weights and len(self.weights) != len(self.functions):
            raise UserError(
                f"reward.weights has {len(self.weights)} numbers for {len(self.functions)} reward.functions; give one each"
            )
        for weight in self.weights:
            require("reward.weights", weight, abs(weight) < float("inf"), "finite numbers")

    @property
    def grades(self) -> bool:
        """Whether the grader takes part, so that problems need answers."""
        return not self.functions or "grade" in self.functions

    def of(self, verdict: Verdict) -> float:
        """The reward of a completion that was judged so."""
        # A text that makes the grader fail earns as little as no answer; otherwise breaking the grader would pay.
        return {Verdict.RIGHT: self.right, Verdict.WRONG: self.wrong}.get(verdict, self.none)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a model by RLOO while it thinks in hard, soft or fuzzy tokens."""

    output: Annotated[str, FREE] = "runs/train"
    """Run directory. It must be new or, with --resume, hold this run."""
    model: str = "tiny"
    """Hugging Face model folder or hub name; tiny is the checkpoint inside this package."""
    thought: tyro.conf.OmitArgPrefixes[ThoughtConfig] = dataclasses.field(default_factory=ThoughtConfig)
    task: tyro.conf.OmitArgPrefixes[TaskConfig] = dataclasses.field(default_factory=TaskConfig)
    endings: tyro.conf.OmitArgPrefixes[EndingsConfig] = dataclasses.field(default_factory=EndingsConfig)
    reward: RewardConfig = dataclasses.field(default_factory=RewardConfig)
    seed: int = 0
    """Seed of the run: data order, noise and sampling."""
    steps: int = 4000
    """Number of updates. Each uses one batch of new rollouts. A resumed run may raise it."""
    problems_per_step: int = 2
    """Problems per batch."""
    group_size: int = 32
    """Rollouts per problem. The baseline of a rollout is the mean reward of the others."""
    antithetic: bool = False
    """Pair the rollouts of a problem: both have the same noise on their thoughts, with opposite signs, and neither is in the other's baseline. For soft and fuzzy thoughts with an even group size of 4 or more (docs/findings.md)."""
    max_thought_steps: int = 128
    """Largest number of thoughts (the paper: 128 for GSM8K, 512 for MATH)."""
    max_answer_tokens: int = 32
    """Largest number of answer tokens."""
    answer_temperature: float = 1.0
    """Temperature of answer tokens during training."""
    learning_rate: float = 6e-6
    """Peak learning rate of AdamW."""
    warmup_steps: int = 20
    """Steps of linear warm-up before the schedule."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Learning rate after the warm-up: cosine or linear decay to zero at the last step, or constant."""
    beta1: float = 0.9
    """AdamW's decay rate of the first moment."""
    beta2: float = 0.999
    """AdamW's decay rate of the second moment."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    clip_norm: float = 1.0
    """Largest gradient norm; 0 turns clipping off."""
    clip: Literal["sum", "each"] = "sum"
    """sum: clip the gradient of the whole loss. each: clip the thought term and the answer term separately."""
    thought_weight: float = 1.0
    """Weight of the thought term in the loss (1: the paper; 0: the answer-only control)."""
    answer_weight: float = 1.0
    """Weight of the answer term in the loss."""
    spike_norm: float = 1000.0
    """Count a thought as a spike when its score (gradient of its log-probability with respect to the hidden state) is longer than this many rows of the head. Near ties at small temperatures cause spikes."""
    clip_spikes: bool = False
    """Scale spikes down to spike_norm. Biased, and costs another pass over the vocabulary; the paper does not do it."""
    max_skipped: Annotated[int, FREE] = 10
    """Stop the run after this many skipped steps in a row. A step is skipped when its loss or gradient is not finite."""
    keep_repro: Annotated[int, FREE] = 3
    """Save this many skipped steps for softtokens replay-step, each with its rollouts and the model at that step."""
    decoding: Annotated[Literal["auto", "plain", "compiled"], FREE] = "auto"
    """compiled: decode with torch.compile, which takes a minute or two at the start. plain: without. auto: compiled on a CPU if the run has at least 60,000 decode steps. On a GPU, steps are recorded as CUDA graphs unless plain is chosen."""
    tokens_per_backward: Annotated[int | None, FREE] = None
    """Positions per forward and backward pass. Lower it to save memory; the gradient does not change. Default: 1024 on a CPU, 16384 on a GPU."""
    term_norms_every: Annotated[int, FREE] = 10
    """Measure the gradient norm of each loss term every this many steps (costs a second backward pass); 0: never. With clip each, they are measured at every step."""
    signal_every: Annotated[int, FREE] = 0
    """Measure every this many steps how well the two halves of the batch agree (signal/cosine, signal/noise_scale). It costs as much as one more update, so use 10 or more. 0: never."""
    validation: Annotated[str | None, FREE] = None
    """Task or file with validation problems, read like the training task and graded as its own task. Default: the arithmetic task's own."""
    validation_split: Annotated[str | None, FREE] = None
    """Split of the validation task."""
    validation_problems: Annotated[int, FREE] = 64
    """Number of validation problems."""
    validation_settings: Annotated[tuple[str, ...], FREE] = ()
    """Validate in these settings of inference too, as evaluate would: hard-greedy, hard-sample, soft-greedy, soft-sample, fuzzy-greedy, fuzzy-sample, or as-trained (the run's own thoughts, sampled)."""
    validation_samples: Annotated[int, FREE] = 4
    """Samples per problem in the sampled ones; pass@k is logged for k = 1, 2, 4, ... up to this number."""
    best_by: Annotated[str, FREE] = "accuracy"
    """What the best checkpoint has most of: accuracy (greedy, in the model's own mode), or a metric of a validation setting, such as hard-sample/pass@1."""
    validate_every: Annotated[int, FREE] = 50
    """Validate (greedy, in the model's own mode) every this many steps and keep the best checkpoint. 0: never."""
    save_every: Annotated[int, FREE] = 50
    """Save a checkpoint every this many steps. The last two and the best are kept."""
    start: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """Start from a checkpoint of another run, RUN@STEP (or RUN@last, RUN@best): its weights, optimizer state and step number, with the settings given here."""
    resume: Annotated[bool, FREE] = False
    """Continue from the last checkpoint in output. Settings that do not affect the gradient may change (how often to save and validate, memory, devices, logs), and steps may grow."""
    logits_dtype: Literal["float32", "bfloat16"] = "float32"
    """Round logits to this precision, in rollouts and replay alike. bfloat16 creates exact ties of the two likeliest tokens, which is what fuzzy thoughts at the paper's temperature learn from. Evaluations use float32."""
    mask_unused: bool = True
    """Exclude vocabulary rows that no token owns (padding rows of the embedding table). --no-mask-unused allows them to be sampled."""
    device: Annotated[str, FREE] = "auto"
    """auto, cpu, cuda or cuda:N."""
    scale: tyro.conf.OmitArgPrefixes[ScaleConfig] = dataclasses.field(default_factory=ScaleConfig)
    wandb: Annotated[str | None, FREE] = None
    """Also log to this Weights & Biases project (needs the wandb extra)."""

    def __post_init__(self) -> None:
        for name in ("steps", "problems_per_step", "max_thought_steps", "max_answer_tokens"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        if self.tokens_per_backward is not None:
            require("tokens_per_backward", self.tokens_per_backward, self.tokens_per_backward >= 1, "at least 1")
        for name in ("warmup_steps", "term_norms_every", "signal_every", "validate_every", "clip_norm"):
            require(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        require("weight_decay", self.weight_decay, 0 <= self.weight_decay <= 1, "in 0 .. 1")
        for name in ("thought_weight", "answer_weight", "answer_temperature"):
            require(name, getattr(self, name), 0 <= getattr(self, name) < float("inf"), "0 or more, and finite")
        if self.thought_weight == self.answer_weight == 0:
            raise UserError("thought_weight and answer_weight are 0, so nothing would be learned; give one of them.")
        for name in ("beta1", "beta2"):
            require(name, getattr(self, name), 0 <= getattr(self, name) < 1, "in 0 .. 1, below 1")
        require("save_every", self.save_every, self.save_every >= 1, "at least 1")
        require("max_skipped", self.max_skipped, self.max_skipped >= 1, "at least 1")
        require("keep_repro", self.keep_repro, self.keep_repro >= 0, "0 (none) or more")
        require("spike_norm", self.spike_norm, 0 < self.spike_norm < float("inf"), "a positive number")
        require("seed", self.seed, 0 <= self.seed < 2**63, "in 0 .. 2**63 - 1")
        require("learning_rate", self.learning_rate, 0 < self.learning_rate < 1, "above 0 and below 1")
        for setting in self.validation_settings:
            require_choice("validation_settings", setting, NAMED_CELLS)
            if self.validation_settings.count(setting) > 1:
                raise UserError(f"validation_settings has {setting} more than once; once is enough")
        require("validation_samples", self.validation_samples, self.validation_samples >= 1, "at least 1")
        require_choice("best_by", self.best_by, self._validation_metrics())
        require("validation_problems", self.validation_problems, self.validation_problems >= 1, "at least 1")
        require_choice("clip", self.clip, ("sum", "each"))
        require_choice("schedule", self.schedule, ("cosine", "linear", "constant"))
        require_choice("decoding", self.decoding, ("auto", "plain", "compiled"))
        require_choice("logits_dtype", self.logits_dtype, ("float32", "bfloat16"))
        if self.group_size < 2:
            raise UserError(
                f"group_size is {self.group_size}; the leave-one-out baseline needs at least 2 rollouts per problem. "
                "Raise group_size, or use the evaluate command."
            )
        is_gaussian = self.thought.mode in ("soft", "fuzzy")
        if self.antithetic and (self.group_size % 2 or self.group_size < 4 or not is_gaussian):
            raise UserError(
                f"antithetic is set with mode {self.thought.mode} and group_size {self.group_size}; it pairs rollouts with "
                "opposite noise, so it needs soft or fuzzy thoughts and an even group_size of at least 4"
            )
        if (rows := self.problems_per_step * self.group_size) > MOST_ROLLOUTS_PER_STEP:
            raise UserError(
                f"problems_per_step is {self.problems_per_step:,} and group_size {self.group_size:,}, which makes "
                f"{rows:,} rollouts a step; at most {MOST_ROLLOUTS_PER_STEP:,} are allowed. Lower one of them."
            )
        if self.signal_every and self.problems_per_step < 2:
            raise UserError(
                f"signal_every is {self.signal_every} with problems_per_step {self.problems_per_step}; it compares two "
                "halves of the problems, so give at least 2 problems, or signal_every 0"
            )
        if self.answer_temperature == 0:
            raise UserError(
                "answer_temperature is 0; greedy answers have no log-probability to train on. Use 1 for training."
            )
        require_drawn(self.thought.mode)
        if self.thought.family.has_gamma and self.thought.gamma == 0:
            raise UserError(
                f"gamma is 0 with mode {self.thought.mode}; thoughts without noise explore nothing and have no "
                "log-probability. Use a positive gamma (the paper: 0.33)."
            )

    def _validation_metrics(self) -> tuple[str, ...]:
        """What best_by may name."""
        of_settings = [
            f"{name}/pass@{k}"
            for name in self.validation_settings
            for k in ks_of(1 if name in SETTINGS and SETTINGS[name].is_greedy else self.validation_samples)
        ]
        return ("accuracy", *of_settings)


def ks_of(samples: int) -> list[int]:
    """The k of pass@k that are logged: powers of two, and the number of samples."""
    return sorted({2**i for i in range(samples.bit_length()) if 2**i <= samples} | {samples})
