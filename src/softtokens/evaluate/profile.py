"""How soft are the thoughts? Entropy, concentration and noise of each thought step, and full traces of a few
generations.

The generations are drawn again from their numbers and scored by one teacher-forced pass. So only their texts have to be
kept, and a finished cell can be profiled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from softtokens.evaluate.folder import SCHEMA
from softtokens.evaluate.sampling import Sampler
from softtokens.models.hf import HFPolicy
from softtokens.ops import streamed
from softtokens.ops.mixture import tempered_softmax
from softtokens.rollout.batches import RowName
from softtokens.rollout.memory import with_fewer_slots
from softtokens.rollout.record import Rollout
from softtokens.rollout.replay import hidden_before_thoughts, stored_draws
from softtokens.rollout.stopping import decode_text
from softtokens.thoughts import Thought
from softtokens.types import answers_of

ENTROPY_TEMPERATURE = 1.0
NEAR_CERTAIN = 0.99
TOP = 5
_BATCH = 32  # generations scored together


@dataclasses.dataclass(frozen=True)
class Steps:
    """The thought steps of some generations, one after the other, [steps] each unless said.

    entropy: nats, at temperature 1. max_weight, effective_support: at the cell's temperature. distance_to_token: from
    what was fed to the nearest token's embedding; noise: length of the noise; both in units of the embedding length,
    rms * sqrt(dim). noise_ratio: length of the noise over that of what is fed without it. top_ids, top_weights:
    [steps, 5].
    """

    row: Tensor
    token: Tensor
    entropy: Tensor
    max_weight: Tensor
    effective_support: Tensor
    distance_to_token: Tensor
    noise: Tensor
    noise_ratio: Tensor
    top_ids: Tensor
    top_weights: Tensor


def chosen_rows(problems: int, samples: int, most: int) -> list[RowName]:
    """At most `most` generations, spread over the problems: the first sample of each, then the second. In the order of
    the problems."""
    if most < problems:
        return [(i * problems // most, 0) for i in range(most)]
    return sorted([(i, n) for n in range(samples) for i in range(problems)][:most])


def profile(sampler: Sampler, thought: Thought, rows: list[RowName]) -> dict[str, Any]:
    """The content of profile.json (docs/evaluation.md) from these generations."""
    columns: dict[str, list[np.ndarray]] = {}
    for rollout, steps in _measured(sampler, thought, rows):
        lengths = rollout.thought_lengths.tolist()
        for name in _PROFILED:
            values = np.split(getattr(steps, name).double().cpu().numpy(), np.cumsum(lengths)[:-1])
            columns.setdefault(name, []).extend(values)
    return summarize_steps(columns, thought.temperature)


_PROFILED = ("entropy", "effective_support", "max_weight", "distance_to_token", "noise_ratio")


def summarize_steps(columns: dict[str, list[np.ndarray]], temperature: float) -> dict[str, Any]:
    """columns: per name one array over the steps of each generation."""
    grids = {name: _grid(values) for name, values in columns.items()}
    above = np.where(np.isnan(grids["max_weight"]), np.nan, grids["max_weight"] > NEAR_CERTAIN)
    means = {name: np.nanmean(grid, axis=0).tolist() for name, grid in grids.items()}
    low, high = np.nanquantile(grids["entropy"], [0.25, 0.75], axis=0)
    running = (~np.isnan(grids["entropy"])).sum(axis=0)
    return {
        "schema": SCHEMA,
        "temperature": temperature,
        "entropy_temperature": ENTROPY_TEMPERATURE,
        "steps": list(range(len(running))),
        "running": running.tolist(),
        **means,
        "entropy_low": low.tolist(),
        "entropy_high": high.tolist(),
        "share_above_0.99": np.nanmean(above, axis=0).tolist(),
        "generations": len(columns["entropy"]),
        "overall": {name: float(np.nanmean(grid)) for name, grid in grids.items()}
        | {"share_above_0.99": float(np.nanmean(above))},
    }


def traces(sampler: Sampler, thought: Thought, rows: list[RowName], names: dict[str, str]) -> list[dict[str, Any]]:
    """One fully recorded generation per row. names: model, task and cell, which every trace repeats."""
    made: list[dict[str, Any]] = []
    for rollout, steps in _measured(sampler, thought, rows):
        part = rows[len(made) : len(made) + rollout.rows]
        problems = [sampler.problems[i] for i, _ in part]
        verdicts = sampler.grader.grade(rollout.answer_texts, answers_of(problems))
        for row, (problem, (_, sample)) in enumerate(zip(problems, part, strict=True)):
            made.append(
                names
                | {
                    "problem": problem.id,
                    "sample": sample,
                    "prompt": problem.prompt,
                    "expected": problem.answer,
                    "answer": rollout.answer_texts[row],
                    "verdict": verdicts[row].value,
                    "stop": rollout.stop_reasons[row],
                    "step_columns": _step_columns(sampler.policy, steps, steps.row == row),
                }
            )
    return made


def _step_columns(policy: HFPolicy, steps: Steps, own: Tensor) -> dict[str, Any]:
    def text(token: int) -> str:
        return decode_text(policy.tokenizer, [token])

    pairs = zip(steps.top_ids[own].tolist(), steps.top_weights[own].tolist(), strict=True)
    return {
        "shadow": [text(token) for token in steps.token[own].tolist()],
        "top": [[[text(i), weight] for i, weight in zip(ids, weights, strict=True)] for ids, weights in pairs],
        **{
            name: getattr(steps, name)[own].tolist() for name in ("entropy", "effective_support", "max_weight", "noise")
        },
    }


@torch.no_grad()
def measure_steps(policy: HFPolicy, thought: Thought, rollout: Rollout) -> Steps:
    """Peak memory: the body's activations for [rows, seq], the table in float32 and a few chunks of logits."""
    vocabulary = policy.vocabulary
    hidden = hidden_before_thoughts(policy, thought, rollout)
    row, _ = torch.nonzero(rollout.is_thought, as_tuple=True)
    drawn = stored_draws(rollout)
    fed = thought.fed(drawn, vocabulary)
    unit = policy.embedding_rms * vocabulary.table.shape[1] ** 0.5
    embeddings = vocabulary.embed(vocabulary.tokens)
    chunk = streamed.default_chunk_rows(vocabulary)
    parts = []
    for start in range(0, len(row), chunk):
        part = slice(start, start + chunk)
        distribution = thought.at(hidden[part], vocabulary)
        soft = distribution.concentration
        weights = tempered_softmax(distribution.logits, thought.temperature or 1e-6)
        noise = distribution.noise_length(drawn[part])
        without_noise = distribution.embed(distribution.mode)
        top = weights.topk(min(TOP, weights.shape[1]))
        parts.append(
            Steps(
                row=row[part],
                token=drawn.token[part],
                entropy=soft.entropy,
                max_weight=soft.max_weight,
                effective_support=soft.effective_support,
                distance_to_token=distance_to_nearest(embeddings, fed[part]) / unit,
                noise=noise / unit,
                noise_ratio=noise / without_noise.norm(dim=-1),
                top_ids=top.indices,
                top_weights=top.values,
            )
        )
    fields = [field.name for field in dataclasses.fields(Steps)]
    return Steps(**{name: torch.cat([getattr(part, name) for part in parts]) for name in fields})


@torch.no_grad()
def distance_to_nearest(embeddings: Tensor, vectors: Tensor) -> Tensor:
    """Euclidean distance of each vector [rows, dim] to the nearest embedding of a token, [rows].

    The nearest is found by the expanded square, whose rounding would drown small distances; its distance is not.
    """
    square = embeddings.square().sum(-1) - 2 * (vectors @ embeddings.T)
    return (vectors - embeddings[square.argmin(dim=-1)]).norm(dim=-1)


def _measured(sampler: Sampler, thought: Thought, rows: list[RowName]) -> Iterator[tuple[Rollout, Steps]]:
    """These generations and their steps, a batch at a time, in their order; smaller batches when memory runs out."""
    start, most = 0, _BATCH
    while start < len(rows):
        left = rows[start:]

        def measure(count: int, left: list[RowName] = left) -> tuple[Rollout, Steps]:
            rollout = sampler.draw(thought, left[:count])
            return rollout, measure_steps(sampler.policy, thought, rollout)

        asked = min(most, len(left))
        measured, count = with_fewer_slots(asked, measure, sampler.decoder)
        if count < asked:
            sampler.batch_size.lower(count)
            most = count
        start += count
        yield measured


def _grid(values: Sequence[np.ndarray]) -> np.ndarray:
    """[generations, most steps], NaN after a generation's end."""
    grid = np.full((len(values), max(map(len, values))), np.nan)
    for row, steps in enumerate(values):
        grid[row, : len(steps)] = steps
    return grid
