"""Count sketches: a vector of billions of numbers in a few thousand, whose inner products survive without bias.

Every entry is added, with a random sign, to one random place of the sketch. The sketch is linear, so sketches of parts
add up, and E <Sx, Sy> = <x, y> over the choice of places and signs, with a standard deviation of at most
sqrt((|x|^2 |y|^2 + <x, y>^2) / size). Charikar, Chen, Farach-Colton, "Finding frequent items in data streams" (2002).

Places and signs are a hash of the entry's position (the finaliser of splitmix64), so that no table of them is stored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor

SMALLEST = 64
_CHUNK = {"cpu": 1 << 16, "cuda": 1 << 21}  # entries hashed at a time: to fit a CPU's caches, or to keep a GPU busy
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_LOW = 0xFFFFFFFF


@dataclasses.dataclass(frozen=True)
class CountSketch:
    """size: numbers in a sketch, SMALLEST .. 2**31. seed: which places and signs; only sketches of one seed compare."""

    size: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not SMALLEST <= self.size < 2**31:
            raise ValueError(f"size is {self.size}; it must be in {SMALLEST} .. 2**31 - 1")

    def of(self, tensors: Iterable[Tensor]) -> Tensor:
        """The sketch of their entries in this order: float64 [size], on their device. Needs one at least."""
        sketch: Tensor | None = None
        position = 0
        for tensor in tensors:
            if sketch is None:
                sketch = torch.zeros(self.size, dtype=torch.float64, device=tensor.device)
            for chunk in tensor.detach().flatten().split(_CHUNK[tensor.device.type]):
                places, signs = self._hashed(position, position + len(chunk), chunk.device)
                sketch.index_add_(0, places, chunk.double() * signs)
                position += len(chunk)
        assert sketch is not None, "there is no tensor"
        return sketch

    def _hashed(self, start: int, end: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Place in the sketch, and sign, of each position in start .. end - 1."""
        word = _signed(_mixed_int(self.seed + 1))
        hashed = _mixed(torch.arange(start, end, device=device) * _signed(_GOLDEN) + word)
        places = (((hashed >> 32) & _LOW) * self.size) >> 32
        return places, 1 - 2 * (hashed & 1)


def _mixed(x: Tensor) -> Tensor:
    """splitmix64's finaliser. int64 wraps in a product, as it should; its shift to the right has to lose the sign."""
    x = (x ^ _shifted(x, 30)) * _signed(_FIRST)
    x = (x ^ _shifted(x, 27)) * _signed(_SECOND)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & (2 ** (64 - bits) - 1)


def _mixed_int(x: int) -> int:
    x = x * _GOLDEN % 2**64
    x = (x ^ (x >> 30)) * _FIRST % 2**64
    x = (x ^ (x >> 27)) * _SECOND % 2**64
    return x ^ (x >> 31)


def _signed(word: int) -> int:
    """The int64 of the same bits."""
    return word - 2**64 if word >= 2**63 else word
