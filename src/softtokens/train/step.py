"""The algorithm, top to bottom: sample, reward, compare within the group, follow the gradient."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from softtokens.config import TrainConfig
from softtokens.ops.denormals import flushing_denormals
from softtokens.rollout.batches import sample_problems
from softtokens.rollout.limits import Limits
from softtokens.rollout.record import Rollout
from softtokens.rollout.spikes import Spikes, unit_of
from softtokens.thoughts import Thought
from softtokens.train.advantage import leave_one_out
from softtokens.train.data import problems_of_step
from softtokens.train.gradient import Batch, Gradient, accumulate_gradient
from softtokens.train.loss import TermWeights
from softtokens.train.memory import give_back, peak_bytes
from softtokens.train.metrics import means, replay_tally, reward_metrics, rollout_tally
from softtokens.train.scoring import Scorer
from softtokens.train.stop import StopRequest
from softtokens.train.weights import Weights, total_norm
from softtokens.train.world import World
from softtokens.types import Problem, Verdict


@dataclasses.dataclass(frozen=True)
class Trainee:
    """What a step works on."""

    config: TrainConfig
    weights: Weights
    optimizer: torch.optim.Optimizer
    thought: Thought
    problems: list[Problem]
    score: Scorer
    limits: Limits
    rows_at_a_time: int
    tokens_per_backward: int
    stop: StopRequest = dataclasses.field(default_factory=StopRequest)

    @property
    def world(self) -> World:
        return self.weights.world

    @property
    def parameters(self) -> list[Tensor]:
        return list(self.weights.parameters.values())


@dataclasses.dataclass(frozen=True)
class Step:
    """What became of an update. metrics: of all processes' rows. samples: the first rollout of each problem, in the
    main process. broken: why there was no update, None if there was. batch: this process's rows, if they were sampled.
    """

    metrics: dict[str, float]
    samples: list[dict]
    broken: str | None
    batch: Batch | None


@flushing_denormals()
def train_step(t: Trainee, step: int) -> Step:
    """One update. Where anything that it follows is not a finite number the parameters stay as they are."""
    config, world, started = t.config, t.world, time.perf_counter()

    batch = problems_of_step(t.problems, step, config.problems_per_step, config.seed)
    rows = [(problem, visit * config.group_size + i) for problem, visit in batch for i in range(config.group_size)]
    mine = [rows[i] for i in world.share(len(rows))]
    rollout, failure = _sampled(t, mine)
    sampled = time.perf_counter()
    failures = [f"process {rank}: {why}" for rank, why in enumerate(world.gather(failure)) if why is not None]
    if failures:
        return Step({"skipped": 1.0}, [], failures[0], None)

    problems = [problem for problem, _ in mine]
    scores, verdicts = world.together(lambda: t.score(problems, rollout.thought_texts, rollout.answer_texts))
    lines = _samples(step, rollout, problems, scores, verdicts, [number for _, number in mine], config.group_size)
    gathered = world.gather((scores, verdicts, lines, rollout_tally(rollout)))
    all_scores, all_verdicts, samples, tallies = (list(column) for column in zip(*gathered, strict=True))
    rewards = torch.tensor(_joined(all_scores), dtype=torch.float32).view(len(batch), config.group_size)
    advantages = leave_one_out(rewards).flatten()[list(world.share(len(rows)))].to(world.device)
    scored = time.perf_counter()

    order = rollout.lengths.argsort()  # rows of similar length share a backward pass
    rollout = rollout.take(order)
    mine = Batch(t.thought, rollout, advantages[order], len(rows), config.answer_temperature)
    spikes = Spikes(
        config.spike_norm,
        clips=config.clip_spikes,
        unit=unit_of(t.weights.sampler.vocabulary),
        gradient_scale=t.weights.gradient_scale,
    )
    terms = TermWeights(config.thought_weight, config.answer_weight)
    measure_apart = config.term_norms_every > 0 and step % config.term_norms_every == 0
    gradient = accumulate_gradient(
        t.weights,
        mine,
        terms,
        tokens_per_backward=t.tokens_per_backward,
        apart=measure_apart or config.clip == "each",
        clip_each=config.clip_norm if config.clip == "each" else None,
        spikes=spikes,
    )
    metrics = dict(gradient.norms)
    metrics["grad_norm"] = total_norm([p.grad for p in t.parameters])
    metrics["learning_rate"] = learning_rate(config, step)
    replayed = replay_tally(mine.rollout, gradient.seen, feeds_tokens=t.thought.feeds_tokens)
    local = (gradient.losses, _not_finite(gradient, terms), replayed, spikes.count, spikes.longest)
    gathered = world.gather((*local, peak_bytes(world.device)))
    losses, not_finite, replayed, counts, longest, peaks = (list(column) for column in zip(*gathered, strict=True))
    metrics |= {name: sum(loss[name] for loss in losses) for name in losses[0]}
    broken = _broken(metrics["grad_norm"], not_finite)
    if broken is None:
        _update(t, metrics["grad_norm"], metrics["learning_rate"])
    t.weights.put_gradients(None)  # rollouts need no memory for them
    give_back(world.device)
    updated = time.perf_counter()

    means_of_rollout = means(tallies)
    metrics |= reward_metrics(rewards, None if verdicts is None else _joined(all_verdicts)) | means_of_rollout
    metrics |= means(replayed)
    metrics |= {
        "num_tokens": float(sum(tally["completions/mean_length"][0] for tally in tallies)),
        "thought/spikes": float(sum(counts)),
        "thought/longest_score": max(longest),
        "skipped": float(broken is not None),
        "epoch": (step + 1) * config.problems_per_step / len(t.problems),
        "memory/peak": float(max(peaks)),
        "time/rollout": sampled - started,
        "time/grade": scored - sampled,
        "time/update": updated - scored,
        "time/step": updated - started,
    }
    metrics["tokens_per_second"] = metrics["num_tokens"] / metrics["time/rollout"]
    return Step(metrics, _joined(samples), broken, mine)


def _sampled(t: Trainee, rows: Sequence[tuple[Problem, int]]) -> tuple[Rollout | None, str | None]:
    """Rollouts of (problem, number of the rollout); or why the model could not give any."""
    groups = [list(group) for _, group in itertools.groupby(rows, key=lambda row: id(row[0]))]
    problems = [group[0][0] for group in groups]
    numbers = [[number for _, number in group] for group in groups]
    try:
        return sample_problems(
            t.weights.sampler,
            t.thought,
            problems,
            numbers,
            t.limits,
            seed=t.config.seed,
            slots=t.rows_at_a_time,
        ), None
    except FloatingPointError as error:
        return None, str(error)


def _update(t: Trainee, norm: float, rate: float) -> None:
    t.stop.keep()
    limit = t.config.clip_norm if t.config.clip == "sum" and t.config.clip_norm > 0 else math.inf
    torch.nn.utils.clip_grads_with_norm_(t.parameters, limit, torch.tensor(norm, device=t.world.device))
    for parameter_group in t.optimizer.param_groups:
        parameter_group["lr"] = rate
    t.optimizer.step()
    t.weights.refresh()


def learning_rate(config: TrainConfig, step: int) -> float:
    """Of update 0, 1, ...: linear warm-up to the peak, then a cosine that reaches zero just after the last one."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    rest = max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - config.warmup_steps) / rest))


def _not_finite(gradient: Gradient, terms: TermWeights) -> list[str]:
    """Which log-probabilities that take part in the loss are not finite numbers."""
    parts = {"thoughts": (terms.thought, gradient.seen.thought_log_prob)}
    parts["answers"] = (terms.answer, gradient.seen.answer_log_prob)
    return [name for name, (weight, values) in parts.items() if weight and not values.isfinite().all()]


def _broken(norm: float, not_finite: list[list[str]]) -> str | None:
    for rank, names in enumerate(not_finite):
        if names:
            return f"process {rank}: log-probabilities of {' and '.join(names)} are not finite"
    return None if math.isfinite(norm) else f"the gradient norm is {norm}"


def _samples(
    step: int,
    rollout: Rollout,
    problems: list[Problem],
    scores: list[float],
    verdicts: list[Verdict] | None,
    numbers: list[int],
    group: int,
) -> list[dict]:
    """Lines of samples.jsonl: the first rollout of each problem."""
    return [
        {
            "step": step + 1,
            "problem": problem.id,
            "prompt": problem.prompt,
            "thoughts": rollout.thought_texts[row],
            "answer": rollout.answer_texts[row],
            "expected": problem.answer,
            "stop": rollout.stop_reasons[row].value,
            "reward": scores[row],
            "verdict": verdicts[row].value if verdicts else None,
        }
        for row, problem in enumerate(problems)
        if numbers[row] % group == 0
    ]


def _joined(parts: list[list]) -> list:
    return [value for part in parts for value in part]
