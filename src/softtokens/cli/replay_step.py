"""Re-run a skipped step row by row, to see which values are not finite."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from softtokens.cli.progress import console
from softtokens.config.commands import ReplayStepConfig
from softtokens.config.toml import from_dict
from softtokens.config.train import TrainConfig
from softtokens.models import thought_head
from softtokens.models.hf import load_policy, resolve_device
from softtokens.rollout.record import Rollout
from softtokens.rollout.spikes import Spikes, unit_of
from softtokens.thoughts import build_thought
from softtokens.train.gradient import Batch, accumulate_gradient
from softtokens.train.objective import TermWeights
from softtokens.train.setup import rounding_of
from softtokens.train.skipped_step import SkippedStep, load_skipped_step
from softtokens.train.weights import Weights, total_norm


@dataclasses.dataclass(frozen=True)
class RowFinding:
    """One rollout of the case. log_prob: sums over its steps, nats (NaN for thoughts whose value is not stored). norm:
    of its gradient. longest_score: see `rollout.spikes`. is_finite: whether its loss and its gradient are."""

    problem: int
    rollout: int
    advantage: float
    thought_log_prob: float
    answer_log_prob: float
    norm: float
    longest_score: float
    is_finite: bool


def replay_step(config: ReplayStepConfig) -> list[RowFinding]:
    """Log-probabilities and gradient of every row, worst first; also printed."""
    skipped = load_skipped_step(Path(config.case))
    console.print(f"step {skipped.step} was skipped: {skipped.why}", highlight=False, markup=False)
    if skipped.rollout is None or skipped.advantages is None:
        load_policy(config.model or skipped.model)  # raises if the weights themselves are not finite
        console.print(
            f"There are no rollouts, because sampling failed. The model of that moment is in {skipped.model}.",
            markup=False,
        )
        return []
    findings = _findings(skipped, skipped.rollout, skipped.advantages, config)
    console.print(_table(findings[: config.rows]))
    broken = sum(not finding.is_finite for finding in findings)
    console.print(f"{broken} of {len(findings)} rollouts have a loss or a gradient that is not finite.")
    return findings


def _findings(skipped: SkippedStep, sampled: Rollout, advantages: Tensor, config: ReplayStepConfig) -> list[RowFinding]:
    settings = from_dict(TrainConfig, skipped.config, where="case: ")
    dtype = getattr(torch, config.dtype)
    policy = load_policy(
        config.model or skipped.model,
        device=resolve_device(config.device),
        dtype=dtype,
        mask_unused=settings.mask_unused,
    )
    policy.logits_rounding = rounding_of(settings)
    thought = build_thought(settings.thought, policy.embedding_rms)
    thought_head.require(policy.model, thought.new_head)
    weights = Weights(policy)
    terms = TermWeights(settings.thought_weight, settings.answer_weight)
    skipped.require_sizes_of(policy, config.model or str(skipped.model))
    rollout, findings = sampled.to(policy.device), []
    for row in range(rollout.rows):
        one = torch.tensor([row], device=policy.device)
        advantage = advantages.to(policy.device)[one]
        batch = Batch(thought, rollout.take(one), advantage, skipped.total_rows, settings.answer_temperature)
        spikes = Spikes(settings.spike_norm, clips=settings.clip_spikes, unit=unit_of(policy.vocabulary))
        replayed = accumulate_gradient(weights, batch, terms, spikes=spikes).replay
        norm = total_norm([p.grad for p in weights.parameters.values() if p.grad is not None])
        of_loss = (replayed.thought_surrogate.sum(), replayed.answer_log_prob.sum(), norm)
        findings.append(
            RowFinding(
                problem=int(rollout.keys.problem[row]),
                rollout=int(rollout.keys.rollout[row]),
                advantage=float(advantage),
                thought_log_prob=float(replayed.thought_log_prob.sum()),
                answer_log_prob=float(replayed.answer_log_prob.sum()),
                norm=norm,
                longest_score=spikes.longest,
                is_finite=all(math.isfinite(value) for value in of_loss),
            )
        )
    return sorted(findings, key=lambda f: (f.is_finite, -f.norm if math.isfinite(f.norm) else 0.0))


def _table(findings: list[RowFinding]) -> Table:
    table = Table(title="rollouts, worst first (log-probabilities in nats; scores in rows of the head)")
    for name in (
        "problem",
        "rollout",
        "advantage",
        "log-prob thoughts",
        "log-prob answer",
        "gradient",
        "longest score",
    ):
        table.add_column(name, justify="right")
    for f in findings:
        numbers = (f.advantage, f.thought_log_prob, f.answer_log_prob, f.norm, f.longest_score)
        table.add_row(
            str(f.problem), str(f.rollout), *(f"{x:.4g}" for x in numbers), style="" if f.is_finite else "red"
        )
    return table
