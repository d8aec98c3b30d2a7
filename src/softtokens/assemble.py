"""From configuration to the things it names; shared by training, evaluation and the command line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from softtokens.config import TaskConfig, TrainConfig
from softtokens.rewards import Grader, grader
from softtokens.tasks import load_problems
from softtokens.tasks.arithmetic import TEMPLATE as ARITHMETIC_TEMPLATE
from softtokens.tasks.prompt import MATH_TEMPLATE, check_template
from softtokens.tasks.registry import ARITHMETIC, NAMES
from softtokens.types import Problem, UserError


def problems_of(task: TaskConfig, *, default_split: str, needs_answers: bool = True) -> list[Problem]:
    """The problems a task configuration names; `default_split` where it names no split and the task has several."""
    is_path = task.name not in NAMES and Path(task.name).expanduser().exists()
    split = task.split or (None if is_path else default_split)  # a local file is one split
    return load_problems(
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


def grader_of(task: TaskConfig) -> Grader:
    """The grader a task configuration names; by default exact for the arithmetic tasks and math-verify for others."""
    return grader(task.grader or ("exact" if is_arithmetic(task) else "math"))


def is_arithmetic(task: TaskConfig) -> bool:
    return task.name in ARITHMETIC


def template_of(task: TaskConfig) -> str:
    """The prompt template of a task's problems."""
    if task.template is not None:
        return check_template(task.template)
    return ARITHMETIC_TEMPLATE if is_arithmetic(task) else MATH_TEMPLATE


def validation_task(config: TrainConfig) -> TaskConfig:
    """What a training run is validated on. It has a grader of its own kind, unless the configuration names one."""
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


def new_folder(output: str) -> Path:
    """Make the folder that results go into. UserError when it cannot be made or already holds something."""
    folder = Path(output)
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"output is {output!r}, which already holds something; give a new folder")
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"output is {output!r}, which cannot be made: {error}") from error
    return folder
