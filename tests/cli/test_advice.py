"""Flags and commands that messages and help texts recommend exist."""

from __future__ import annotations

import ast
import dataclasses
import re
import typing
from pathlib import Path
from typing import Any

import softtokens
from softtokens import cli

PACKAGE = Path(softtokens.__file__).parent
COMMON = {"--config", "--dry-run", "--help", "--version"}
OTHERS = {"--nproc-per-node", "--local-dir", "--plot-background"}  # of torchrun, the hub's client, the page's styles


def flags_of(kind: Any) -> set[str]:
    """The flags of a configuration class, as its parser names them."""
    flags = set()
    for field in dataclasses.fields(kind):
        hint = typing.get_type_hints(kind, include_extras=True)[field.name]
        inner = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
        names = [getattr(part, "name", None) for part in typing.get_args(hint)[1:]]
        name = next((name for name in names if name), field.name).replace("_", "-")
        if dataclasses.is_dataclass(inner):
            flags |= flags_of(inner) | {f"--{name}.{flag[2:]}" for flag in flags_of(inner)}
        else:
            flags |= {f"--{name}", f"--no-{name}"}
    return flags


def texts(file: Path) -> list[str]:
    """String constants of a file; the parts of an f-string each by itself."""
    tree = ast.parse(file.read_text())
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def advised(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text))


def test_every_option_that_a_text_names_is_one():
    known = set.union(COMMON, OTHERS, *(flags_of(command.config) for command in cli.COMMANDS.values()))
    unknown = {
        (str(file.relative_to(PACKAGE)), flag)
        for file in sorted(PACKAGE.rglob("*.py"))
        for text in texts(file)
        for flag in advised(text) - known
    }
    assert unknown == set()
