"""The algorithm, top to bottom: sample, reward, compare within the group, follow the gradient."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from softtokens.config.train import TrainConfig
from softtokens.ops.denormals import flushing_denormals
from softtokens.rollout.batches import sample_problems
from softtokens.rollout.decoder import Decoder
from softtokens.rollout.limits import Limits
from softtokens.rollout.record import Rollout
from softtokens.rollout.spikes import Spikes, unit_of
from softtokens.thoughts import Thought
from softtokens.train.batch_sizes import BatchSizes
from softtokens.train.data import problems_of_step
from softtokens.train.gradient import Batch, Gradient, accumulate_gradient
from softtokens.train.gradient_signal import signal_of_halves
from softtokens.train.interrupt import StopRequest
from softtokens.train.metrics import means, replay_tally, reward_metrics, rollout_tally
from softtokens.train.objective import TermWeights, leave_one_out
from softtokens.train.process_memory import give_back, peak_bytes
from softtokens.train.scoring import Scorer
from softtokens.train.weights import Weights, total_norm
from softtokens.types import Problem, Verdict
from softtokens.world.processes import World


@dataclasses.dataclass(frozen=True)
class Trainee:
    """What a step works on. batch_sizes: how much of it runs at a time; falls
    when memory runs out. decoder: of the policy that samples."""

    config: TrainConfig
    weights: Weights
    optimizer: torch.optim.Optimizer
    thought: Thought
    problems: list[Problem]
    score: Scorer
    limits: Limits
    batch_sizes: BatchSizes
    decoder: Decoder
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
    main process. broken: why the update was skipped, None if it was not. batch: this process's rows, if they were
    sampled.
    """

    metrics: dict[str, float]
    samples: list[dict]
    broken: str | None
    batch: Batch | None


@dataclasses.dataclass(frozen=True)
class Collected:
    """A batch of rollouts. rollout: this process's rows, in the order of their length, their advantages, and whether
    their problem is in the first half of the batch; rewards: [problems, group] of all processes, as are the metrics
    and, in the main process, the samples."""

    rollout: Rollout
    advantages: Tensor
    in_first_half: Tensor
    rewards: Tensor
    metrics: dict[str, float]
    samples: list[dict]


@flushing_denormals()
def train_step(t: Trainee, step: int) -> Step:
    """One update.

    Two kinds of step leave the parameters as they are: one where a value that the update depends on is not finite, and
    one where the rewards of every group are equal, so that there is nothing to learn (Adam would still follow its
    momentum).
    """
    config, world, started = t.config, t.world, time.perf_counter()
    collected = collect(t, step)
    if isinstance(collected, str):
        return Step({"skipped": 1.0}, [], collected, None)
    batch = Batch(
        t.thought, collected.rollout, collected.advantages, collected.rewards.numel(), config.answer_temperature
    )
    metrics, broken, scored = collected.metrics, None, time.perf_counter()
    metrics["learning_rate"] = learning_rate(config, step)
    metrics["no_spread"] = metrics["skipped"] = 0.0
    if leave_one_out(collected.rewards).any():
        if config.signal_every > 0 and step % config.signal_every == 0:
            metrics |= _signal(t, batch, collected.in_first_half)
        metrics_of_update, broken = _gradient(t, step, batch)
        metrics |= metrics_of_update
        metrics["skipped"] = float(broken is not None)
        if broken is None:
            _update(t, metrics["grad_norm"], metrics["learning_rate"])
        t.weights.put_gradients(None)  # rollouts need no memory for them
        give_back(world.device)
    else:
        metrics |= {"no_spread": 1.0, "grad_norm": 0.0}
    updated = time.perf_counter()
    metrics |= {
        "epoch": (step + 1) * config.problems_per_step / len(t.problems),
        "memory/peak": float(max(world.gather(peak_bytes(world.device)))),
        "time/update": updated - scored,
        "time/step": updated - started,
    }
    return Step(metrics, collected.samples, broken, batch)


def collect(t: Trainee, step: int) -> Collected | str:
    """Sample this step's rollouts and score them; or why the model could not give any."""
    config, world, started = t.config, t.world, time.perf_counter()
    visits = problems_of_step(t.problems, step, config.problems_per_step, config.seed)
    rows = [(problem, visit * config.group_size + i) for problem, visit in visits for i in range(config.group_size)]
    my_rows = [rows[i] for i in world.share(len(rows))]
    rollout, failure = world.together(lambda: _sample(t, my_rows))
    sampled = time.perf_counter()
    failures = [f"process {rank}: {why}" for rank, why in enumerate(world.gather(failure)) if why is not None]
    if failures:
        return failures[0]

    problems = [problem for problem, _ in my_rows]
    scores, verdicts = world.together(lambda: t.score(problems, rollout.thought_texts, rollout.answer_texts))
    lines = _samples(step, rollout, problems, scores, verdicts, [number for _, number in my_rows], config.group_size)
    gathered = world.gather((scores, verdicts, lines, rollout_tally(rollout)))
    all_scores, all_verdicts, samples, tallies = (list(column) for column in zip(*gathered, strict=True))
    rewards = torch.tensor(_joined(all_scores), dtype=torch.float32).view(len(visits), config.group_size)
    advantages = leave_one_out(rewards).flatten()[list(world.share(len(rows)))].to(world.device)
    metrics = reward_metrics(rewards, None if verdicts is None else _joined(all_verdicts)) | means(tallies)
    metrics["num_tokens"] = float(sum(tally["completions/mean_length"][0] for tally in tallies))
    metrics |= {"time/rollout": sampled - started, "time/grade": time.perf_counter() - sampled}
    metrics["tokens_per_second"] = metrics["num_tokens"] / metrics["time/rollout"]
    places = torch.tensor(world.share(len(rows)), device=world.device) // config.group_size
    halves = places < len(visits) // 2
    order = rollout.lengths.argsort()  # rows of similar length share a backward pass
    return Collected(rollout.take(order), advantages[order], halves[order], rewards, metrics, _joined(samples))


def _sample(t: Trainee, rows: Sequence[tuple[Problem, int]]) -> tuple[Rollout | None, str | None]:
    """Rollouts of (problem, number of the rollout); or why the model could not give any."""
    groups = [list(group) for _, group in itertools.groupby(rows, key=lambda row: id(row[0]))]
    problems = [group[0][0] for group in groups]
    numbers = [[number for _, number in group] for group in groups]

    def sample(slots: int) -> tuple[Rollout | None, str | None]:
        try:
            return sample_problems(
                t.weights.sampler,
                t.thought,
                problems,
                numbers,
                t.limits,
                seed=t.config.seed,
                slots=slots,
                decoder=t.decoder,
            ), None
        except FloatingPointError as error:
            return None, str(error)

    return t.batch_sizes.sampling("slots", t.decoder, sample)


def _gradient(t: Trainee, step: int, batch: Batch) -> tuple[dict[str, float], str | None]:
    """Write the gradient into `.grad` of the parameters; its metrics, and why it must not be followed if so."""
    config, world = t.config, t.world
    terms = TermWeights(config.thought_weight, config.answer_weight)
    measure_apart = config.term_norms_every > 0 and step % config.term_norms_every == 0
    spikes = spikes_of(t)
    gradient = accumulate_gradient(
        t.weights,
        batch,
        terms,
        tokens_per_backward=t.batch_sizes.positions,
        apart=measure_apart or config.clip == "each",
        clip_each=config.clip_norm if config.clip == "each" else None,
        spikes=spikes,
    )
    t.batch_sizes.lower_positions(gradient.tokens_per_backward)
    metrics = dict(gradient.norms)
    metrics["grad_norm"] = total_norm([p.grad for p in t.parameters])
    replayed = replay_tally(batch.rollout, gradient.replay, feeds_tokens=t.thought.feeds_tokens)
    local = (gradient.losses, _not_finite(gradient, terms), replayed, spikes.count, spikes.longest)
    losses, not_finite, replayed, counts, longest = (list(column) for column in zip(*world.gather(local), strict=True))
    metrics |= {name: sum(loss[name] for loss in losses) for name in losses[0]}
    metrics |= means(replayed)
    metrics |= {"thought/spikes": float(sum(counts)), "thought/longest_score": max(longest)}
    return metrics, _broken(metrics["grad_norm"], not_finite)


def _signal(t: Trainee, batch: Batch, in_first_half: Tensor) -> dict[str, float]:
    terms = TermWeights(t.config.thought_weight, t.config.answer_weight)
    spikes = spikes_of(t) if t.config.clip_spikes else None
    return signal_of_halves(
        t.weights, batch, in_first_half, terms, tokens_per_backward=t.batch_sizes.positions, spikes=spikes
    )


def spikes_of(t: Trainee) -> Spikes:
    """What watches the thoughts' scores in one pass over the batch."""
    return Spikes(
        t.config.spike_norm,
        clips=t.config.clip_spikes,
        unit=unit_of(t.weights.sampler.vocabulary),
        gradient_scale=t.weights.gradient_scale,
    )


def _update(t: Trainee, norm: float, rate: float) -> None:
    t.stop.keep()
    limit = t.config.clip_norm if t.config.clip == "sum" and t.config.clip_norm > 0 else math.inf
    torch.nn.utils.clip_grads_with_norm_(t.parameters, limit, torch.tensor(norm, device=t.world.device))
    for parameter_group in t.optimizer.param_groups:
        parameter_group["lr"] = rate
    t.optimizer.step()
    t.weights.refresh()


def learning_rate(config: TrainConfig, step: int) -> float:
    """Of update 0, 1, ...: linear warm-up to the peak, then the schedule; cosine and linear reach zero just after the
    last update."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    shares = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": max(0.0, 1 - done), "constant": 1.0}
    return config.learning_rate * shares[config.schedule]


def _not_finite(gradient: Gradient, terms: TermWeights) -> list[str]:
    """Which log-probabilities that take part in the loss are not finite numbers."""
    parts = {"thoughts": (terms.thought, gradient.replay.thought_surrogate)}
    parts["answers"] = (terms.answer, gradient.replay.answer_log_prob)
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
