"""Which settings do not change what is learned, marked once beside each field of the configuration classes."""

from __future__ import annotations

import dataclasses
import typing
from typing import Annotated

FREE = "does not change the gradient"  # as in `save_every: Annotated[int, FREE] = 50`


def free_settings(kind: type) -> frozenset[str]:
    """The settings of a configuration class that are marked FREE, those of nested classes by dotted names."""
    names = set()
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        inner = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
        if dataclasses.is_dataclass(inner):
            names |= {f"{name}.{setting}" for setting in free_settings(inner)}
        elif FREE in typing.get_args(hint)[1:]:
            names.add(name)
    return frozenset(names)


def flat(settings: dict) -> dict:
    """Nested settings by dotted names."""
    entries = {}
    for name, value in settings.items():
        inner = {f"{name}.{key}": entry for key, entry in flat(value).items()} if isinstance(value, dict) else {}
        entries |= inner or {name: value}
    return entries
