r"""Reward functions by name, and a user's own from MODULE:FUNCTION. A new one is a function and one line in `REWARDS`.

A reward function is called as in TRL, with keywords: `f(prompts, completions, **columns)`. Next to the columns of the
data set it gets `answer`, and `thoughts`, `answers` (the texts of the two phases) and `thought_lengths` (in steps).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from softtokens.rewards.extract import answer_in
from softtokens.types import UserError, first_line

RewardFunction = Callable[..., Sequence[float | None]]


def has_answer(answers: Sequence[str], **_: Any) -> list[float]:
    r"""1 for an answer that ends its \boxed{...} with something in it, else 0."""
    return [float(answer_in(text) is not None) for text in answers]


def thought_length(thought_lengths: Sequence[int], **_: Any) -> list[float]:
    """The number of thought steps. A negative weight makes thoughts shorter."""
    return [float(length) for length in thought_lengths]


REWARDS: dict[str, RewardFunction] = {
    "format": has_answer,
    "length": thought_length,
}


def reward_function(name: str) -> RewardFunction:
    """A function of `REWARDS`, or that of MODULE:FUNCTION, where MODULE is a module's name or a Python file. UserError
    when it cannot be had."""
    if name in REWARDS:
        return REWARDS[name]
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        known = ", ".join(("grade", *REWARDS))
        raise UserError(
            f"reward.functions has {name!r}; it must be one of {known}, or MODULE:FUNCTION, such as my_rewards:f or "
            "rewards.py:f."
        )
    module = _module(name, place)
    function = getattr(module, attribute, None)
    if function is None:
        raise UserError(f"reward.functions has {name!r}, but {place} has no {attribute}; check its name.")
    return function


def _module(name: str, place: str) -> Any:
    is_file = place.endswith(".py")
    if is_file and not Path(place).is_file():
        raise UserError(f"reward.functions has {name!r}, but there is no file {place}.")
    try:
        if is_file:
            return _run_file(Path(place))
        if "" not in sys.path:  # a command that was installed does not look into the current folder
            sys.path.append("")
        return importlib.import_module(place)
    except (Exception, SystemExit) as error:  # a script that parses its arguments exits
        raise UserError(
            f"reward.functions has {name!r}, and {place} cannot be imported: {type(error).__name__}: "
            f"{first_line(error)}. Import it in a Python started in this folder to see more."
        ) from error


def _run_file(file: Path) -> Any:
    """The module that a Python file makes. As when it is run by itself, it can import the files next to it."""
    spec = importlib.util.spec_from_file_location(f"reward_functions_in_{file.stem}", file)
    assert spec is not None and spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look their module up
    if (folder := str(file.resolve().parent)) not in sys.path:
        sys.path.append(folder)
    spec.loader.exec_module(module)
    return module
