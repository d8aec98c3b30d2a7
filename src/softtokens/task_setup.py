"""The problems and the grader that a configuration names; shared by training, evaluation and the command line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from softtokens.config.task import TaskConfig
from softtokens.config.train import TrainConfig
from softtokens.files import expanded
from softtokens.rewards import Grader, grader
from softtokens.tasks.registry import ARITHMETIC, NAMES, TaskData, load_task
from softtokens.types import Problem, UserError


def task_data(task: TaskConfig, *, default_split: str, needs_answers: bool = True) -> TaskData:
    """The problems a task configuration names, and their template; `default_split` where it names no split and the task
    has several."""
    is_path = task.name not in NAMES and Path(expanded(task.name)).exists()
    split = task.split or (None if is_path else default_split)  # a local file is one split
    return load_task(
        task.name,
        split=split,
        limit=task.limit,
        path=task.path,
        config=task.subset,
        question=task.question,
        answer=task.answer,
        template=task.template,
        seed=task.seed,
        needs_answers=needs_answers,
    )


def problems_of(task: TaskConfig, *, default_split: str) -> list[Problem]:
    return task_data(task, default_split=default_split).problems


def problems_sha256(problems: Sequence[Problem]) -> str:
    """Fingerprint of problems, from what the model and the grader read."""
    shown = [[problem.id, problem.prompt, problem.answer] for problem in problems]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()


def grader_of(task: TaskConfig) -> Grader:
    """The grader a task configuration names; by default exact for the arithmetic tasks and math-verify for others."""
    return grader(task.grader or ("exact" if is_arithmetic(task) else "math"))


def is_arithmetic(task: TaskConfig) -> bool:
    return task.name in ARITHMETIC


def validation_task(config: TrainConfig) -> TaskConfig:
    """The validation task of a training run. It has its own kind of grader, unless the configuration names one."""
    name = config.validation
    task = config.task if name is None else dataclasses.replace(config.task, name=name, path=None)
    return dataclasses.replace(task, split=config.validation_split, limit=config.validation_problems)


def validation_problems(config: TrainConfig) -> list[Problem]:
    """Problems to validate a training run on: those named, or the arithmetic task's own validation split."""
    task = config.task
    if config.validation is None and not is_arithmetic(task):
        raise UserError(
            f"validate_every is {config.validate_every}, but task {task.name!r} has no validation problems of its own; "
            "name some with --validation FILE (and --validation-split), or set --validate-every 0"
        )
    return problems_of(validation_task(config), default_split="validation")
