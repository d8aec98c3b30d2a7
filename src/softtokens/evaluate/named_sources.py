"""Names for what was given on the command line: safe as folder names, and unique."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from softtokens.files import expanded
from softtokens.types import UserError

_UNSAFE = re.compile(r"[^A-Za-z0-9._+=@-]+", re.ASCII)
_ENDINGS = re.compile(r"(\.(jsonl|json|parquet|csv|txt))?(\.gz)?$", re.ASCII)
_NAMED = re.compile(r"([A-Za-z0-9._+@-]+)=(.+)", re.ASCII | re.DOTALL)
_SPLITS = ("train", "validation", "valid", "dev", "test")
_LONGEST = 100


def named_sources(what: str, given: Sequence[str]) -> dict[str, str]:
    """name -> source for each of `given`, which is a source or NAME=SOURCE. UserError when two get the same name."""
    named: dict[str, str] = {}
    for text in given:
        name, source = split_name(text)
        if name in named:
            raise UserError(
                f"{what}: {named[name]!r} and {source!r} would both be named {name!r}; give one another name, as "
                f"NAME={source}"
            )
        named[name] = source
    return named


def split_name(text: str) -> tuple[str, str]:
    """The name and the source of `NAME=SOURCE`, or of a source alone: the last part of its path. Paths are expanded."""
    whole = expanded(text)
    match = None if Path(whole).exists() else _NAMED.fullmatch(text)
    name, source = (match[1], expanded(match[2])) if match else (_last_part(whole), whole)
    if not name.strip("."):
        raise UserError(f"no name can be made from {text!r}; give one, as NAME={source}")
    return name, source


def _last_part(source: str) -> str:
    """runs/hard -> hard; runs/hard/checkpoints/best -> hard-best; gsm8k/test.jsonl.gz -> gsm8k."""
    parts = [part for part in Path(source).parts if part not in (".", "..", "/")]
    last = _ENDINGS.sub("", parts[-1]) if parts else ""
    if last in _SPLITS and len(parts) > 1:
        last = parts[-2]
    elif len(parts) > 2 and parts[-2] == "checkpoints":
        last = f"{parts[-3]}-{last}"
    return _UNSAFE.sub("-", last).strip("-")[:_LONGEST]
