"""Helpers of the configuration classes: checks of values, and the mark of settings that do not change what is learned."""

from __future__ import annotations

import dataclasses
import typing
from typing import Annotated, Any

from softtokens.types import UserError

FREE = "does not change the gradient"  # as in `save_every: Annotated[int, FREE] = 50`


def free_settings(kind: type) -> frozenset[str]:
    """The settings of a configuration class that are marked FREE, those of nested classes by dotted names."""
    names = set()
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        inner = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            names |= {f"{name}.{setting}" for setting in free_settings(inner)}
        elif FREE in typing.get_args(hint)[1:]:
            names.add(name)
    return frozenset(names)


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings by dotted names."""
    entries: dict[str, Any] = {}
    for name, value in settings.items():
        inner = {f"{name}.{key}": entry for key, entry in flat(value).items()} if isinstance(value, dict) else {}
        entries |= inner or {name: value}
    return entries


def require(name: str, value: object, allowed: bool, what: str) -> None:
    """Raise UserError unless `allowed`, and for a float that is not finite, or too small for a normal float32."""
    if not allowed:
        raise UserError(f"{name} is {value}; it must be {what}")
    if isinstance(value, float) and value != 0 and not 2.0**-126 <= abs(value) < 2.0**127:
        raise UserError(f"{name} is {value}, which float32 cannot compute with; give 0 or a size of 1e-37 to 1e38")


def require_choice(name: str, value: object, choices: tuple) -> None:
    require(name, repr(value), value in choices, "one of " + ", ".join(map(str, choices)))
