"""Configuration files: defaults, then a TOML file, then flags."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from typing import Any

from softtokens.types import UserError

_MOST_BYTES = 1 << 20


def load_defaults(kind: type, path: str) -> Any:
    """A `kind` configuration whose defaults are overridden by a TOML file; tables are the nested configurations.

    Raises UserError for a missing or broken file, an unknown key or a value of the wrong type, naming what is allowed.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise UserError(f"config file {path!r} is larger than {_MOST_BYTES:,} bytes; it is no file of settings")
        values = tomllib.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"config is {path!r}, which cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"config file {path!r} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise UserError(f"config file {path!r} is nested too deep; settings are at most two tables deep") from error
    return from_dict(kind, values, where=f"{path}: ")


def from_dict(kind: type, values: dict[str, Any], *, where: str = "") -> Any:
    """Build a configuration from plain data."""
    hints = typing.get_type_hints(kind)
    fields = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(values.keys() - fields)
    if unknown:
        raise UserError(f"{where}{', '.join(unknown)}: unknown key; the keys here are {', '.join(sorted(fields))}")
    given = {name: _value(hints[name], value, f"{where}{name}") for name, value in values.items()}
    try:
        return kind(**given)
    except TypeError as error:  # a required field without a value
        raise UserError(f"{where}{error}") from error


def _value(hint: Any, value: Any, name: str) -> Any:
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)  # Literal[...] | None is a typing.Union
    options = typing.get_args(hint) if is_union else (hint,)
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, dict):
            return from_dict(option, value, where=f"{name}.")
        if (
            typing.get_origin(option) is tuple
            and isinstance(value, list)
            and _are_all(typing.get_args(option)[0], value)
        ):
            return tuple(typing.get_args(option)[0](item) for item in value)
        if typing.get_origin(option) is typing.Literal and isinstance(value, str):
            return value  # which ones are allowed is checked where all ways of setting it meet
        if option is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if isinstance(option, type) and isinstance(value, option) and isinstance(value, bool) == (option is bool):
            return value
    allowed = " or ".join(_in_words(option) for option in options if option is not type(None))
    raise UserError(f"{name} is {value!r}; it must be {allowed}")


def _are_all(kind: type, values: list) -> bool:
    kinds = (int, float) if kind is float else kind
    return all(isinstance(value, kinds) and not isinstance(value, bool) for value in values)


def _in_words(kind: Any) -> str:
    if dataclasses.is_dataclass(kind):
        return "a table"
    if typing.get_origin(kind) is tuple:
        return "a list of " + {str: "texts", float: "numbers"}[typing.get_args(kind)[0]]
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(typing.get_args(kind))
    return {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}[kind]
