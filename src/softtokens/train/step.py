"""One training step, top to bottom: sample rollouts, score them, compute the gradient, update the weights."""

from __future__ import annotations

import dataclasses
import math
import time

import torch
from torch import Tensor

from softtokens.config.train import TrainConfig
from softtokens.ops.denormals import flushing_denormals
from softtokens.rollout.spikes import Spikes, unit_of
from softtokens.train.collect import collect
from softtokens.train.gradient import Batch, Gradient, accumulate_gradient
from softtokens.train.gradient_signal import signal_of_halves
from softtokens.train.metrics import means, replay_tally
from softtokens.train.objective import TermWeights
from softtokens.train.process_memory import give_back, peak_bytes
from softtokens.train.trainee import Trainee
from softtokens.train.weights import total_norm


@dataclasses.dataclass(frozen=True)
class Step:
    """The result of a training step.

    metrics: over the rows of all processes. samples: the first rollout of each problem, in the main process. broken:
    why the update was skipped, or None. batch: this process's rows, or None if sampling failed.
    """

    metrics: dict[str, float]
    samples: list[dict]
    broken: str | None
    batch: Batch | None


@flushing_denormals()
def train_step(t: Trainee, step: int) -> Step:
    """One update: collect rollouts, take the gradient of the loss, apply it.

    The parameters do not change if a value that the update depends on is not finite, or if the rewards of every group
    are equal. In the second case the gradient is zero, but Adam's momentum would still move the weights.
    """
    started = time.perf_counter()
    collected = collect(t, step)
    if isinstance(collected, str):
        return Step({"skipped": 1.0}, [], collected, None)
    scored = time.perf_counter()

    rows, temperature = collected.rewards.numel(), t.config.answer_temperature
    batch = Batch(t.thought, collected.rollout, collected.advantages, rows, temperature)
    rate, broken = learning_rate(t.config, step), None
    metrics = collected.metrics | {"learning_rate": rate, "no_spread": 0.0, "skipped": 0.0}
    if collected.has_spread:
        if t.config.signal_every > 0 and step % t.config.signal_every == 0:
            metrics |= measure_signal(t, batch, collected.in_first_half)
        metrics_of_gradient, broken = take_gradient(t, step, batch)
        metrics |= metrics_of_gradient
        if broken is None:
            apply_gradient(t, metrics["grad_norm"], rate)
        metrics["skipped"] = float(broken is not None)
        t.weights.put_gradients(None)  # free their memory for the rollouts
        give_back(t.world.device)
    else:
        metrics |= {"no_spread": 1.0, "grad_norm": 0.0}

    updated = time.perf_counter()
    metrics |= {
        "epoch": (step + 1) * t.config.problems_per_step / len(t.problems),
        "memory/peak": float(max(t.world.gather(peak_bytes(t.world.device)))),
        "time/update": updated - scored,
        "time/step": updated - started,
    }
    return Step(metrics, collected.samples, broken, batch)


def take_gradient(t: Trainee, step: int, batch: Batch) -> tuple[dict[str, float], str | None]:
    """Write the gradient into `.grad` of the parameters. Returns metrics, and why the gradient is unusable, or None."""
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
    metrics["grad_norm"] = total_norm([p.grad for p in t.parameters if p.grad is not None])
    replayed = replay_tally(batch.rollout, gradient.replay)
    local = (gradient.losses, _not_finite(gradient, terms), replayed, spikes.count, spikes.longest)
    losses, not_finite, replayed, counts, longest = (list(column) for column in zip(*world.gather(local), strict=True))
    metrics |= {name: sum(loss[name] for loss in losses) for name in losses[0]}
    metrics |= means(replayed)
    metrics |= {"thought/spikes": float(sum(counts)), "thought/longest_score": max(longest)}
    return metrics, _broken(metrics["grad_norm"], not_finite)


def apply_gradient(t: Trainee, norm: float, rate: float) -> None:
    """Clip the gradient, given its norm, and take an optimizer step."""
    t.stop.keep()
    limit = t.config.clip_norm if t.config.clip == "sum" and t.config.clip_norm > 0 else math.inf
    torch.nn.utils.clip_grads_with_norm_(t.parameters, limit, torch.tensor(norm, device=t.world.device))
    for parameter_group in t.optimizer.param_groups:
        parameter_group["lr"] = rate
    t.optimizer.step()
    t.weights.refresh()


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of update 0, 1, ...: linear warm-up to the peak, then the schedule. Cosine and linear schedules
    reach zero just after the last update."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    shares = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": max(0.0, 1 - done), "constant": 1.0}
    return config.learning_rate * shares[config.schedule]


def measure_signal(t: Trainee, batch: Batch, in_first_half: Tensor) -> dict[str, float]:
    """How well the gradients of the two halves of the batch agree (docs/signal.md)."""
    terms = TermWeights(t.config.thought_weight, t.config.answer_weight)
    spikes = spikes_of(t) if t.config.clip_spikes else None
    return signal_of_halves(
        t.weights, batch, in_first_half, terms, tokens_per_backward=t.batch_sizes.positions, spikes=spikes
    )


def spikes_of(t: Trainee) -> Spikes:
    """Counts, and clips if configured, the spikes among the thoughts' scores in one pass over the batch."""
    return Spikes(
        t.config.spike_norm,
        clips=t.config.clip_spikes,
        unit=unit_of(t.weights.sampler.vocabulary),
        gradient_scale=t.weights.gradient_scale,
    )


def _not_finite(gradient: Gradient, terms: TermWeights) -> list[str]:
    """Names of the terms of the loss whose log-probabilities are not all finite."""
    parts = {"thoughts": (terms.thought, gradient.replay.thought_surrogate)}
    parts["answers"] = (terms.answer, gradient.replay.answer_log_prob)
    return [name for name, (weight, values) in parts.items() if weight and not values.isfinite().all()]


def _broken(norm: float, not_finite: list[list[str]]) -> str | None:
    for rank, names in enumerate(not_finite):
        if names:
            return f"process {rank}: log-probabilities of {' and '.join(names)} are not finite"
    return None if math.isfinite(norm) else f"the gradient norm is {norm}"
