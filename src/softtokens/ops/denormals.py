"""Flush denormal numbers to zero: thoughts at tau 1e-4 leave softmax tails of them, which processors compute very
slowly."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def flushing_denormals() -> Iterator[None]:
    """Also a decorator; not of generators, whose callers run in between.

    Acts on the calling thread, and is undone at the end. torch's own threads have the setting that was in force when
    torch started them, which is at its first large operation, usually while a model is loaded.
    """
    was_on = sys.float_info.min / 2 == 0.0  # torch has no getter
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_on)
