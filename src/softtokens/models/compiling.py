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
    """The function compiled for all shapes at its first call, or as it is once compiling fails, which is said once."""
    compiled = torch.compile(function, dynamic=True, fullgraph=True)
    runs, works = False, True  # a compiled call went through; compiling is worth another try

    def call(*args):
        nonlocal runs, works
        if works:
            try:
                result = compiled(*args)
                runs = True
                return result
            except Exception as error:
                # the first time the compiler raises whatever it meets; later on what is not its own is the function's
                if runs and not type(error).__module__.startswith("torch._dynamo"):
                    raise
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                log.warning("%s could not be compiled and run as they are, which is slower: %s", what, reason)
                works = False
        return function(*args)

    return call
