"""Storage of gradients: complete in main memory, or as sketches of fixed size."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from softtokens.ops.sketch import SMALLEST, CountSketch
from softtokens.rollout.memory import free_bytes
from softtokens.types import UserError

SKETCH = 1 << 20
Keep = Callable[[Iterable[Tensor]], Tensor]  # a gradient, by parameter, to one vector in main memory


def keeping(sketch: int | None, parameters: int) -> Keep:
    """Whole gradients, or their sketches."""
    if sketch is not None:
        of_many = CountSketch(sketch)
        return lambda gradient: of_many.of(gradient).cpu()

    def whole(gradient: Iterable[Tensor]) -> Tensor:
        vector, end = torch.empty(parameters), 0
        for part in gradient:
            start, end = end, end + part.numel()
            vector[start:end] = part.detach().flatten()
        return vector

    return whole


def sketch_size(wanted: int | None, *, vectors: int, parameters: int, room: float) -> int | None:
    """How many numbers to keep of each of so many gradients; None: all. wanted: as the user asks, None for whole
    gradients if they fit. room: bytes. UserError when sketches do not fit either."""
    if wanted is None and 4.0 * vectors * parameters <= room:
        return None
    size = wanted or SKETCH
    if (needed := 8.0 * vectors * size) > room:
        raise UserError(
            f"memory is {room / 1e9:.3g} GB, and {vectors} sketches of {size:,} numbers, two for each batch, take "
            f"{needed / 1e9:.3g} GB; raise memory, or lower sketch (at least {SMALLEST}) or batches"
        )
    return size


def budget(memory: float | None, processes: int) -> float:
    """Bytes of main memory for gradients of this process. memory: GB; by default a part of the machine's, which its
    processes share."""
    return 1e9 * memory if memory is not None else free_bytes(torch.device("cpu")) / processes
