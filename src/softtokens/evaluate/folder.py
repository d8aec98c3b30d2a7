"""The folder of an evaluation (docs/evaluation.md describes its files).

Every file but samples.jsonl is written to a temporary place and renamed, so existing files are complete.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from softtokens.config.fields import flat
from softtokens.files import expanded, read_json, write_json
from softtokens.types import UserError

SCHEMA = 1
_MAIN = "evaluation.json"
_LOCKS = ".locks"
_LIST = "list of models"  # cannot be a model's name, which has no spaces
# fields of the configuration
_SAMPLING = ("seed", "max_thought_steps", "max_answer_tokens", "mask_unused", "dtype")
_SAMPLING += ("endings.preset", "endings.thought_end", "endings.forced_text")
_TASK_OPTIONS = ("limit", "split", "seed", "path", "subset", "question", "answer", "template", "chat", "system")
_AFTER_READING = ("grader", "chat_kwargs", "special_tokens")  # of a task, and do not change its problems as such


def cell_folder(root: Path, model: str, task: str, cell: str) -> Path:
    return root / "cells" / model / task / cell


def trace_file(root: Path, model: str, task: str, cell: str) -> Path:
    return root / "traces" / model / task / f"{cell}.jsonl"


def choices_file(root: Path, model: str, name: str) -> Path:
    return root / "choices" / model / f"{name}.json"


def preservation_file(root: Path, model: str) -> Path:
    return root / "preservation" / f"{model}.json"


def read_main(root: Path) -> dict[str, Any] | None:
    """The content of evaluation.json, or None if it does not exist. UserError when it has another schema."""
    file = root / _MAIN
    if not file.is_file():
        return None
    content = read_json(file)
    if content is None or not {"config", "models", "tasks", "settings"} <= content.keys():
        raise UserError(f"{file} is damaged; evaluate into a new folder, or restore it")
    if content.get("schema") != SCHEMA:
        raise UserError(f"{file} has schema {content.get('schema')!r}, this version reads {SCHEMA}; give a new folder")
    return content


def check_output(output: str) -> Path:
    """The folder, if an evaluation may be written there: it is new, empty, or an evaluation."""
    root = Path(expanded(output))
    try:
        if root.exists() and not root.is_dir():
            raise UserError(f"output is {output!r}, which is a file; give a folder")
        if root.is_dir() and not (root / _MAIN).is_file() and any(p.name != _LOCKS for p in root.iterdir()):
            raise UserError(f"output is {output!r}, which holds something other than an evaluation; give a new folder")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"output is {output!r}, which cannot be read: {error}") from error
    read_main(root)
    return root


def register(root: Path, entry: dict[str, Any]) -> None:
    """Add models, tasks and settings to evaluation.json, making the folder.

    UserError when what is there was sampled under other conditions, naming them. Several processes may do this at once.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root, _LIST, timeout=60):
            old = read_main(root)
            write_json(root / _MAIN, entry if old is None else _merged(root, old, entry))
    except OSError as error:
        raise UserError(f"output is {str(root)!r}, which cannot be written: {error.strerror or error}") from error


def order_models(root: Path, names: Sequence[str]) -> None:
    """Put these models first in evaluation.json, in this order; processes add theirs as they finish."""
    with locked(root, _LIST, timeout=60):
        main = read_main(root)
        assert main is not None, "every process has added its models"
        main["models"].sort(key=lambda model: names.index(model["name"]) if model["name"] in names else len(names))
        write_json(root / _MAIN, main)


def _merged(root: Path, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    changed = differences(old, new)
    if changed:
        raise UserError(
            f"{str(root)!r} holds an evaluation under other conditions ({'; '.join(changed)}); evaluate under the same "
            "ones, or give a new output folder"
        )
    merged = dict(new)
    for key in ("models", "tasks"):
        merged[key] = list(({x["name"]: x for x in old[key]} | {x["name"]: x for x in new[key]}).values())
    merged["settings"] = list(dict.fromkeys([*old["settings"], *new["settings"]]))
    return merged


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The differences between two entries that would lead to other samples under the same name, in words."""
    was, is_now = flat(old["config"]), flat(new["config"])
    changed = [
        f"{key} was {was.get(key)}, is {is_now.get(key)}" for key in _SAMPLING if was.get(key) != is_now.get(key)
    ]
    for before, now in _pairs(old["models"], new["models"]):
        if before["weights"] != now["weights"]:
            moved = (
                "" if before["path"] == now["path"] else f", from {now['path']!r} in the place of {before['path']!r}"
            )
            changed.append(f"model {now['name']!r} has other weights or another tokenizer than before{moved}")
    for before, now in _pairs(old["tasks"], new["tasks"]):
        options = [
            f"{key} was {before['config'].get(key)!r}, is {now['config'].get(key)!r}"
            for key in _TASK_OPTIONS
            if before["config"].get(key) != now["config"].get(key)
        ]
        if before["sha256"] != now["sha256"]:
            why = ", ".join(options) or f"{before['problems']} problems before, {now['problems']} now"
            changed.append(f"task {now['name']!r} has other problems: {why}")
        for key in _AFTER_READING:
            values = before["config"].get(key), now["config"].get(key)
            if values[0] != values[1]:
                changed.append(f"task {now['name']!r}: {key} was {values[0]!r}, is {values[1]!r}")
    return changed


def _pairs(old: list[dict], new: list[dict]) -> list[tuple[dict, dict]]:
    by_name = {x["name"]: x for x in old}
    return [(by_name[x["name"]], x) for x in new if x["name"] in by_name]


@contextlib.contextmanager
def locked(root: Path, name: str, *, timeout: float = 0) -> Iterator[None]:
    """Hold a lock on this folder until the process ends. UserError when another process holds it."""
    import filelock

    (root / _LOCKS).mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(root / _LOCKS / f"{name}.lock", timeout=timeout):
            yield
    except filelock.Timeout as error:
        raise UserError(
            f"{name!r} in {str(root)!r} is being evaluated by another process; wait for it, or end it"
        ) from error


def read_result(file: Path) -> dict[str, Any] | None:
    """Like read_json. UserError when the file has another schema: its numbers may mean something else, and a newer
    version's file must not be overwritten."""
    content = read_json(file)
    if content is not None and content.get("schema", SCHEMA) != SCHEMA:
        raise UserError(f"{file} has schema {content['schema']!r}, this version reads {SCHEMA}; give a new folder")
    return content
