"""Configuration files: defaults, then TOML files from left to right, then flags, merged as data and built once."""

from __future__ import annotations

import dataclasses
import re
import tomllib
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import tyro

from softtokens.types import UserError

_MOST_BYTES = 1 << 20


def load_defaults(kind: type, paths: Sequence[str]) -> Any:
    """A `kind` configuration as tyro takes its defaults, from TOML files whose tables are the nested configurations; a
    later file wins. What is allowed together is not checked here: flags are still to come.

    Raises UserError for a missing or broken file, an unknown key or a value of the wrong type, naming what is allowed.
    """
    given: dict[str, Any] = {}
    for path in paths:
        given = _merged(given, _checked(kind, _read(path), f"{path}: "))
    return _built(kind, given, _unfinished)


def from_dict(kind: type, values: dict[str, Any], *, where: str = "") -> Any:
    """Build a configuration from plain data. Raises UserError as `load_defaults` does, and for what is not allowed."""
    try:
        return _built(kind, _checked(kind, values, where), lambda kind, given: kind(**given))
    except TypeError as error:  # a required field without a value
        raise UserError(f"{where}{error}") from error


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise UserError(f"config file {path!r} is larger than {_MOST_BYTES:,} bytes; that is not a settings file")
        return tomllib.loads(content.decode("utf-8-sig"))  # editors on Windows write a byte order mark
    except OSError as error:
        raise UserError(f"config is {path!r}, which cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"config file {path!r} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise UserError(f"config file {path!r} is nested too deep; settings are at most two tables deep") from error


def _checked(kind: type, values: dict[str, Any], where: str) -> dict[str, Any]:
    """The same data with every value of its field's type."""
    hints = typing.get_type_hints(kind)
    fields = {f.name for f in dataclasses.fields(kind)}
    if unknown := sorted(values.keys() - fields):
        raise UserError(f"{where}{', '.join(unknown)}: unknown key; the keys here are {', '.join(sorted(fields))}")
    return {name: _value(hints[name], value, f"{where}{name}") for name, value in values.items()}


def _value(hint: Any, value: Any, name: str) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise UserError(f"{name} is {value!r}; it must be a table")
        return _checked(hint, value, f"{name}.")
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    choices = [
        choice for kind in kinds if typing.get_origin(kind) is typing.Literal for choice in typing.get_args(kind)
    ]
    if choices and value is not None and value not in choices:
        raise UserError(f"{name} is {value!r}; it must be one of {', '.join(choices)}")
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        raise UserError(f"{name} is {value!r}; {_in_words(str(error))}") from error


def _in_words(message: str) -> str:
    """msgspec's message in the words of TOML."""
    names = {"str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false", "array": "a list"}
    expected = re.fullmatch(r"Expected `([^`]*)`, got `[^`]*`(?: - at `\$\[.*)?", message)
    kinds = [kind for kind in expected[1].split(" | ") if kind != "null"] if expected else []
    if not kinds or not set(kinds) <= names.keys():
        return message
    items = "every item of the list" if " - at " in message else "it"
    return f"{items} must be {' or '.join(names[kind] for kind in kinds)}"


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Both, the second one winning, tables merged in the same way."""
    tables = {
        key: _merged(first[key], value)
        for key, value in second.items()
        if isinstance(value, dict) and isinstance(first.get(key), dict)
    }
    return first | second | tables


def _built(kind: type, given: dict[str, Any], make: Callable[[type, dict[str, Any]], Any]) -> Any:
    hints = typing.get_type_hints(kind)
    nested = {name: _built(hints[name], value, make) for name, value in given.items() if isinstance(value, dict)}
    return make(kind, given | nested)


def _unfinished(kind: type, given: dict[str, Any]) -> Any:
    """An instance whose checks did not run and whose required fields may be missing."""
    instance: Any = object.__new__(kind)
    for field in dataclasses.fields(kind):
        if field.name in given:
            value = given[field.name]
        elif field.default is not dataclasses.MISSING:
            value = field.default
        else:
            value = tyro.MISSING if field.default_factory is dataclasses.MISSING else field.default_factory()
        object.__setattr__(instance, field.name, value)
    return instance
