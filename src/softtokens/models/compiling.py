"""Compile a function where that works and is worth it, and go on without where it is not."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

log = logging.getLogger(__name__)

# About what a compilation costs, counted in decode steps that it makes faster: half a minute against 1 or 2 ms each.
_WORTH_COMPILING = 20_000


def worth_compiling(choice: str, steps: int, device: torch.device) -> bool:
    """Whether to compile decoding. choice: auto, plain or compiled; steps: how many decode steps are to come.

    A rule and not a measurement, so that a run that is resumed takes the same path, to the last bit.
    """
    if choice == "auto":
        return device.type == "cpu" and steps >= _WORTH_COMPILING
    return choice == "compiled"


def compiled_or_plain(function: Callable, what: str) -> Callable:
    """The function compiled for all shapes at its first call, or as it is when compiling fails, which is said once."""
    compiled = torch.compile(function, dynamic=True, fullgraph=True)
    chosen: list[Callable] = []

    def call(*args):
        if chosen:
            return chosen[0](*args)
        try:
            result = compiled(*args)
            chosen.append(compiled)
        except Exception as error:  # the compiler raises whatever it meets, also of its own private kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            log.warning("%s could not be compiled and run as they are, which is slower: %s", what, reason)
            chosen.append(function)
            result = function(*args)
        return result

    return call
