"""`softtokens signal`: the gradients of independent batches, as training would make them, and how far they agree."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable

import torch
from torch import Tensor

from softtokens.config.signal import SignalConfig
from softtokens.config.thought import ThoughtConfig
from softtokens.ops.denormals import flushing_denormals
from softtokens.rollout.batches import require_room
from softtokens.rollout.decoder import Decoder
from softtokens.rollout.limits import Limits
from softtokens.signal.estimate import Estimate, estimate, gram_of
from softtokens.signal.keep import Keep, budget, keeping, sketch_size
from softtokens.task_setup import grader_of, task_data, with_prompts
from softtokens.thoughts import build_thought
from softtokens.train.checkpoint import checkpoint_to_start_at
from softtokens.train.collect import Collected, collect
from softtokens.train.gradient import Batch, accumulate_gradient
from softtokens.train.objective import TermWeights, is_flat, leave_one_out
from softtokens.train.scoring import RewardFunction, columns_of, scorer
from softtokens.train.setup import batch_sizes_of, load_weights, training_endings
from softtokens.train.step import spikes_of
from softtokens.train.trainee import Trainee
from softtokens.train.weights import whole_gradient
from softtokens.types import UserError
from softtokens.world.launch import launch
from softtokens.world.processes import World, join

log = logging.getLogger(__name__)
Listener = Callable[[ThoughtConfig, int], None]  # called with a setting and the number of its batches done

TERMS = {"thought": TermWeights(1, 0), "answer": TermWeights(0, 1)}


@dataclasses.dataclass(frozen=True)
class Measured:
    """One setting. terms: of the thought and the answer term, each without its weight, and of their weighted sum.
    spread: share of groups whose rewards differ. solved: share of rollouts, None where no grader judged. rewards: the
    lowest and the highest."""

    thought: ThoughtConfig
    terms: dict[str, Estimate]
    reward: float
    rewards: tuple[float, float]
    solved: float | None
    spread: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Signal:
    """sketch: how many numbers were kept of each gradient; None: all of them, `parameters`."""

    config: SignalConfig
    parameters: int
    sketch: int | None
    settings: list[Measured]

    @property
    def rows(self) -> int:
        """Rollouts in a batch."""
        return self.config.problems_per_step * self.config.group_size


def signal(
    config: SignalConfig, *, reward_func: RewardFunction | None = None, listener: Listener | None = None
) -> Signal:
    """Measure as configured. Under torchrun or srun, this is one of several processes, as in training.

    Raises UserError for an unusable configuration, and if no group of any setting has rewards that differ;
    FloatingPointError if a gradient is not finite.
    """
    with join(launch(), config.device) as world:
        return _signal(config, world, reward_func, listener)


def _signal(
    config: SignalConfig, world: World, reward_func: RewardFunction | None, listener: Listener | None
) -> Signal:
    data = task_data(config.task, default_split="train", needs_answers=reward_func is None and config.reward.grades)
    problems = with_prompts(data.problems, config.task, config.model)
    folder, progress = checkpoint_to_start_at(config.start) if config.start is not None else (None, None)
    first = progress.step if progress is not None else 0
    if (wanted := config.batches * config.problems_per_step) > len(problems):
        log.warning(
            "the task has %d problems for batches of %d in all, so some are shared: agreement will look better than it "
            "is",
            len(problems), wanted,
        )  # fmt: skip
    endings = training_endings(config)
    weights = load_weights(config, folder, world, data.template, endings, config.settings)
    parameters = sum(parameter.numel() for parameter in weights.parameters.values())
    room = min(world.gather(budget(config.memory, world.launch.local_size)))
    sketch = sketch_size(config.sketch, vectors=len(TERMS) * config.batches, parameters=parameters, room=room)
    limits = Limits(config.max_thought_steps, config.max_answer_tokens, config.answer_temperature, endings)
    positions = require_room(weights.sampler, problems, limits, name="the task")
    batch_sizes = batch_sizes_of(config, weights, positions, limits, 0)
    thoughts = {setting: build_thought(setting, weights.sampler.embedding_rms) for setting in config.settings}
    steps = len(thoughts) * config.batches * (config.max_thought_steps + config.max_answer_tokens)
    decoder = Decoder(weights.sampler).prepare(config.decoding, steps, ways=len(thoughts))
    judge = grader_of(config.task)
    score = scorer(config.reward, judge, reward_func, columns=columns_of(problems))
    optimizer = torch.optim.SGD(weights.parameters.values(), lr=0.0)  # never steps, and has no state
    measured = []
    try:
        for setting, thought in thoughts.items():
            own = dataclasses.replace(config, thought=setting, modes=(), taus=(), gammas=())
            trainee = Trainee(own, weights, optimizer, thought, problems, score, limits, batch_sizes, decoder)
            keep = keeping(sketch, parameters)
            measured.append(_measure(trainee, first, keep, listener if world.is_main else None))
    finally:
        judge.close()
    _require_spread(measured, config)
    return Signal(config, parameters, sketch, measured)


@flushing_denormals()
def _measure(t: Trainee, first: int, keep: Keep, listener: Listener | None) -> Measured:
    """One setting, on the batches of updates first, first + 1, ..."""
    config, started = t.config, time.perf_counter()
    assert isinstance(config, SignalConfig), config
    gradients: dict[str, list[Tensor]] = {term: [] for term in TERMS}
    rewards, solved = [], []
    for number in range(config.batches):
        batch = collect(t, first + number)
        if isinstance(batch, str):
            raise FloatingPointError(f"batch {number + 1} could not be sampled: {batch}")
        for term, kept in gradients_of(t, batch, keep).items():
            if not kept.isfinite().all():
                raise FloatingPointError(f"batch {number + 1}: the gradient of the {term} term is not finite")
            gradients[term].append(kept)
        rewards.append(batch.rewards)
        if "verdict/right" in batch.metrics:
            solved.append(batch.metrics["verdict/right"])
        if listener is not None:
            listener(config.thought, number + 1)
    rewards = torch.stack(rewards)
    gram = gram_of([*gradients["thought"], *gradients["answer"]])
    return Measured(
        thought=config.thought,
        terms=estimates(gram, TermWeights(config.thought_weight, config.answer_weight), rewards[0].numel()),
        reward=float(rewards.nanmean()),
        rewards=(float(rewards.nan_to_num(float("inf")).min()), float(rewards.nan_to_num(float("-inf")).max())),
        solved=sum(solved) / len(solved) if len(solved) == config.batches else None,
        spread=float((~is_flat(rewards.flatten(0, 1))).double().mean()),
        seconds=time.perf_counter() - started,
    )


def gradients_of(t: Trainee, batch: Collected, keep: Keep) -> dict[str, Tensor]:
    """The gradient of each term, unweighted."""
    rows = Batch(t.thought, batch.rollout, batch.advantages, batch.rewards.numel(), t.config.answer_temperature)
    kept = {}
    for name, terms in TERMS.items():
        if leave_one_out(batch.rewards).any():
            spikes = spikes_of(t) if t.config.clip_spikes else None
            done = accumulate_gradient(
                t.weights, rows, terms, tokens_per_backward=t.batch_sizes.positions, spikes=spikes
            )
            t.batch_sizes.lower_positions(done.tokens_per_backward)
        kept[name] = keep(whole_gradient(t.weights))
        t.weights.put_gradients(None)
    return kept


def estimates(gram: Tensor, weights: TermWeights, rows: int) -> dict[str, Estimate]:
    """gram: inner products [2 batches, 2 batches], the thought term's gradients first. The sum needs no gradients of
    its own."""
    half = len(gram) // 2
    thought, answer, across = gram[:half, :half], gram[half:, half:], gram[:half, half:]
    both = weights.thought * weights.answer * (across + across.T)
    total = weights.thought**2 * thought + weights.answer**2 * answer + both
    return {name: estimate(of_one, rows) for name, of_one in (("thought", thought), ("answer", answer), ("sum", total))}


def _require_spread(settings: list[Measured], config: SignalConfig) -> None:
    if any(setting.spread for setting in settings):
        return
    low, high = min(s.rewards[0] for s in settings), max(s.rewards[1] for s in settings)
    groups = config.batches * config.problems_per_step
    if low == high:
        raise UserError(
            f"the reward is {low:g} for every rollout of {groups} groups, so there is no gradient to measure; look at "
            "the rollouts with softtokens generate, and at the task's answers and grader"
        )
    raise UserError(
        f"none of {groups} groups has rewards that differ, so there is no gradient to measure: every problem is "
        "solved always or never; choose other problems, a larger group_size, or more noise (gamma)"
    )
