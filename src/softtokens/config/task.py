"""Where problems come from, in training and in evaluation."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any, Literal

import tyro

from softtokens.config.fields import require, require_choice
from softtokens.types import UserError


def check_chat(chat: bool, system: str | None, kwargs: str) -> None:
    """UserError for options of chat prompts without --chat, or chat_kwargs that are not a JSON object."""
    if not chat and (system is not None or kwargs != "{}"):
        given = "system" if system is not None else "chat_kwargs"
        raise UserError(f"{given} is given without chat, so no chat template would use it; add --chat, or drop it")
    require("system", repr(system), system is None or bool(system.strip()), "a text, or omitted for none")
    template_variables(kwargs)


def template_variables(kwargs: str) -> dict[str, Any]:
    """The variables for a chat template. UserError for what is not a JSON object."""
    try:
        variables = json.loads(kwargs)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"chat_kwargs is {kwargs!r}, which is not JSON ({error}); give an object in quotes, such as "
            "'{\"enable_thinking\": true}'"
        ) from error
    if not isinstance(variables, dict):
        raise UserError(f'chat_kwargs is {kwargs!r}; it must be a JSON object, such as {{"enable_thinking": true}}')
    return variables


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """Where problems come from."""

    name: Annotated[str, tyro.conf.arg(name="task")] = "arithmetic"
    """A built-in task (arithmetic, arithmetic-long, gsm8k, math, math500, olympiadbench, deepscaler), a file (jsonl, jsonl.gz, parquet, csv) or a hub name."""
    split: str | None = None
    """Which split; by default train for training and test for evaluation."""
    limit: int | None = None
    """Use only this many problems."""
    path: str | None = None
    """Read a built-in task from this local file or folder instead of the hub."""
    subset: str | None = None
    """Configuration (subset) of a hub data set."""
    seed: Annotated[int, tyro.conf.arg(name="task-seed")] = 0
    """Seed of the problems that the arithmetic tasks generate."""
    question: str | None = None
    """Column with the question, if it is not the task's own."""
    answer: str | None = None
    """Column with the final answer, if it is not the task's own."""
    template: str | None = None
    """Prompt text with {question} in it. A backslash followed by n is a line break. By default the task's own. With --chat it is the user's turn."""
    chat: bool = False
    """Make prompts with the tokenizer's chat template. Without it, prompts are plain text."""
    system: str | None = None
    """With --chat: the system message of conversations that have none of their own."""
    chat_kwargs: str = "{}"
    """With --chat: a JSON object of variables for the chat template, such as {"enable_thinking": false}."""
    special_tokens: bool = False
    """Encode special tokens that are written out in the data, such as <|im_end|>, as special tokens. By default they stay text."""
    grader: Literal["exact", "math"] | None = None
    """exact: equal text or number. math: math-verify. By default the task's own."""

    def __post_init__(self) -> None:
        require("limit", self.limit, self.limit is None or self.limit >= 1, "at least 1, or omitted for all")
        require_choice("grader", self.grader, (None, "exact", "math"))
        check_chat(self.chat, self.system, self.chat_kwargs)
