"""Compile a function where that works and is worth it, and go on without where it is not."""

from __future__ import annotations

import logging
import types
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

    def own(*args):
        return function(*args)

    # what was compiled is found by its code and not checked for being of the same model: each has code of its own
    own = types.FunctionType(own.__code__.replace(), globals(), closure=own.__closure__)
    compiled = torch.compile(own, dynamic=True, fullgraph=True, options={"guard_filter_fn": _of_arguments})
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


def _of_arguments(guards) -> list[bool]:
    """Which of the conditions of a compiled function are looked at before each call: not those on modules and globals,
    which stay as they are (parameters change in place). All of them take 0.5 ms a step."""
    filters = (torch.compiler.skip_guard_on_all_nn_modules_unsafe, torch.compiler.skip_guard_on_globals_unsafe)
    return [all(kept) for kept in zip(*(keep(guards) for keep in filters), strict=True)]
