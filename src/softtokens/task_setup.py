"""The problems and the grader that a configuration names; shared by training, evaluation and the command line."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from softtokens.config.task import TaskConfig, template_variables
from softtokens.config.train import TrainConfig
from softtokens.files import expanded
from softtokens.models.chat import Chat, rendered
from softtokens.models.files import load_tokenizer
from softtokens.rewards import Grader, grader
from softtokens.tasks.registry import ARITHMETIC, NAMES, TaskData, load_task
from softtokens.types import Problem, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
        chat=task.chat,
        system=task.system,
        special_tokens=task.special_tokens,
        usual_split=default_split,
    )


def problems_of(task: TaskConfig, *, default_split: str) -> list[Problem]:
    return task_data(task, default_split=default_split).problems


def chat_of(task: TaskConfig) -> Chat | None:
    """How prompts are made with a chat template; None for plain text."""
    return Chat(task.system, template_variables(task.chat_kwargs)) if task.chat else None


def with_prompts(problems: list[Problem], task: TaskConfig, tokenizer: PreTrainedTokenizerBase | str) -> list[Problem]:
    """The problems with the prompts that this tokenizer's chat template makes, if the task asks for that. tokenizer:
    or the name of its model. UserError as from `models.chat.rendered`."""
    chat = chat_of(task)
    if chat is None:
        return problems
    if isinstance(tokenizer, str):
        tokenizer = load_tokenizer(tokenizer)
    return rendered(problems, tokenizer, chat, special_tokens=task.special_tokens)


def problems_sha256(problems: Sequence[Problem]) -> str:
    """Fingerprint of problems, from what the model and the grader read."""
    shown = [[problem.id, problem.prompt or problem.messages, problem.answer] for problem in problems]
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
    task = validation_task(config)
    return with_prompts(problems_of(task, default_split="validation"), task, config.model)
