"""Compile a function where that works, and fall back to the plain function where it does not."""

from __future__ import annotations

import contextlib
import functools
import logging
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.fx.experimental._config

from softtokens.types import first_line

log = logging.getLogger(__name__)

# Decode steps until a compilation pays off: it takes about half a minute and saves 1 to 4 ms per step.
_WORTH_COMPILING = 20_000


def worth_compiling(choice: str, steps: int, ways: int, device: torch.device) -> bool:
    """Whether to compile decoding. choice: auto, plain or compiled. steps: number of decode steps. ways: number of
    different thoughts in them. The model is compiled once, and the emission once per thought.

    This is a rule and not a measurement, so a resumed run takes the same path and has the same bits.
    """
    if choice == "auto":
        return device.type == "cpu" and steps >= (1 + ways) * _WORTH_COMPILING
    return choice == "compiled"


def compiled_or_plain(function: Callable, what: str) -> Callable:
    """The function, compiled for all shapes at its first call. If compiling fails, warns once and runs uncompiled."""

    def shared(*args: Any) -> Any:
        return function(*args)

    # Dynamo caches by code object, and we skip its guards on modules, so two models would share a graph. Give each
    # wrapper its own code object.
    own = types.FunctionType(shared.__code__.replace(), globals(), closure=shared.__closure__)
    compiled = torch.compile(own, dynamic=True, fullgraph=True, options={"guard_filter_fn": _of_arguments})
    works, ran = True, False

    def call(*args: Any) -> Any:
        nonlocal works, ran
        if works:
            try:
                with contextlib.nullcontext() if ran else _compiling_once():
                    result = compiled(*args)
                ran = True
                return result
            except Exception as error:
                if not _is_the_compilers(error):
                    raise
                _say(f"{what} could not be compiled and run uncompiled, which is slower: {first_line(error)}")
                works = False
        return function(*args)

    return call


@contextlib.contextmanager
def _compiling_once() -> Iterator[None]:
    """Settings of the compiler under which sizes that happen to be equal may differ later without compiling again, and
    under which it does not start over when it finds out that numbers such as a temperature are better constants."""
    apart = torch.fx.experimental._config.patch(use_duck_shape=False)  # type: ignore[attr-defined]  # added at import
    with apart, torch._dynamo.config.patch(specialize_float=True):
        yield


def _is_the_compilers(error: Exception) -> bool:
    """Whether an error was raised before the function ran, so by the compiler. It may be of any class and may come
    late, when a function is compiled again."""
    if type(error).__module__.startswith("torch._dynamo"):
        return True
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == "torch._dynamo.convert_frame" for frame, _ in frames)


@functools.lru_cache(maxsize=64)
def _say(warning: str) -> None:
    """Warn once: every part of a step fails for the same reason."""
    log.warning(warning)


def _of_arguments(guards: Any) -> list[bool]:
    """Select which guards of a compiled function are checked before each call: those on arguments, not those on
    modules and globals, which do not change (parameters change in place). Checking all of them takes 0.5 ms per
    step."""
    filters = (torch.compiler.skip_guard_on_all_nn_modules_unsafe, torch.compiler.skip_guard_on_globals_unsafe)
    return [all(kept) for kept in zip(*(keep(guards) for keep in filters), strict=True)]
