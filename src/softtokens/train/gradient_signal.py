"""Whether the two halves of a batch want the same: signal and noise of the gradient while training."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from softtokens.ops.sketch import CountSketch
from softtokens.rollout.spikes import Spikes
from softtokens.train.gradient import Batch, accumulate_gradient
from softtokens.train.objective import TermWeights
from softtokens.train.weights import Weights, whole_gradient

_SKETCH = CountSketch(1 << 20)  # 8 MB; sketching changes a cosine by about 0.001


def signal_of_halves(
    weights: Weights,
    batch: Batch,
    in_first: Tensor,
    terms: TermWeights,
    *,
    tokens_per_backward: int | None = None,
    spikes: Spikes | None = None,
) -> dict[str, float]:
    """`signal/cosine` and `signal/noise_scale` (docs/metrics.md). in_first: bool, which of this process's rows are in
    the first half. Each half takes a pass of its own, and leaves a sketch; no gradient is left in the parameters.

    All processes take part. Every gradient is gathered whole, one parameter at a time.
    """
    sketches, rows, tokens = [], [], tokens_per_backward
    for chosen in (in_first, ~in_first):
        rows.append(sum(weights.world.gather(int(chosen.sum()))))
        half = _only(batch, chosen)
        tokens = accumulate_gradient(
            weights, half, terms, tokens_per_backward=tokens, spikes=spikes
        ).tokens_per_backward
        sketches.append(_SKETCH.of(whole_gradient(weights)).cpu())
    weights.put_gradients(None)
    first, second = (sketch * (batch.total_rows / count) for sketch, count in zip(sketches, rows, strict=True))
    signal = float(first @ second)
    squares = [float(first @ first), float(second @ second)]
    lengths = math.sqrt(squares[0] * squares[1])
    noise = sum(count * (square - signal) for count, square in zip(rows, squares, strict=True)) / 2
    # a zero gradient has cosine 0; NaN from a broken model stays NaN
    return {
        "signal/cosine": signal / lengths if lengths != 0 else 0.0,
        "signal/noise_scale": max(noise, 0.0) / signal if signal > 0 else math.nan,
    }


def _only(batch: Batch, chosen: Tensor) -> Batch:
    """These rows. A process that has none runs one for nothing: where weights are sharded all have to keep step."""
    rows = chosen.nonzero()[:, 0] if chosen.any() else torch.zeros(1, dtype=torch.int64, device=chosen.device)
    advantages = batch.advantages * chosen
    return dataclasses.replace(batch, rollout=batch.rollout.take(rows), advantages=advantages[rows])
