"""The list of tasks, and the function that makes problems of any of them. A new task is a file and one line here."""

from __future__ import annotations

import dataclasses
from typing import Any

from softtokens.tasks import arithmetic
from softtokens.tasks.conversation import as_messages, is_conversation
from softtokens.tasks.deepscaler import DEEPSCALER
from softtokens.tasks.files import Row, column_in, is_hub_name, load_rows, present_at, text_at
from softtokens.tasks.gsm8k import GSM8K
from softtokens.tasks.math import MATH, MATH500, SOLUTION, solution_answer
from softtokens.tasks.olympiadbench import OLYMPIADBENCH
from softtokens.tasks.prompt import MATH_MESSAGE, MATH_TEMPLATE, PLACE, PromptForm, check_template
from softtokens.tasks.spec import Reader, TaskSpec, final_answer
from softtokens.types import Problem, UserError

TASKS = {
    spec.name: spec
    for spec in (
        GSM8K,
        MATH,
        MATH500,
        OLYMPIADBENCH,
        DEEPSCALER,
    )
}
ARITHMETIC = {"arithmetic": "short", "arithmetic-long": "long"}  # name of a generated task -> difficulty
NAMES = frozenset((*ARITHMETIC, *TASKS))
ARITHMETIC_TRAIN_COUNT, ARITHMETIC_COUNT = 1000, 200  # problems if no limit is given
_NO_ANSWERS = (
    "Name the right one with the option answer. A grader compares with the answer, in training, validation and "
    "evaluation; only training with a reward function of your own, and --validate-every 0, needs none."
)
_MOST_MADE = 1_000_000  # for the arithmetic tasks, which generate all problems at the start


@dataclasses.dataclass(frozen=True)
class TaskData:
    """template: what the questions were put into, in a chat the user's turn; `{question}` alone where rows bring whole
    prompts."""

    problems: list[Problem]
    template: str


def load_problems(task: str, **options: Any) -> list[Problem]:
    """The problems of a task, which `load_task` finds by its name; the options are those of `load_task`."""
    return load_task(task, **options).problems


def load_task(
    task: str,
    *,
    split: str | None = None,
    limit: int | None = None,
    path: str | None = None,
    config: str | None = None,
    question: str | None = None,
    answer: str | None = None,
    template: str | None = None,
    seed: int = 0,
    needs_answers: bool = True,
    chat: bool = False,
    system: str | None = None,
    special_tokens: bool = False,
    usual_split: str | None = None,
) -> TaskData:
    """The first `limit` problems of a registered task, a local file or folder, or a hub data set `owner/name`, and the
    template that they were made with.

    **Main arguments:**

    - `task`: a name of `TASKS` or `ARITHMETIC`, a path, or a hub name.
    - `split`: the task's first one if None. A single file is one split, so it does not matter there.
    - `limit`: None reads all rows (and makes 1,000 problems to train on, 200 for other splits).
    - `template`: text with `{question}` in it; None means `MATH_TEMPLATE`, or `MATH_MESSAGE` in a chat.
    - `usual_split`: of a local folder with several splits the one to take if `split` is None.
    - `chat`: make conversations (`Problem.messages`), of which `models.chat.rendered` makes the prompts.
    - `system`: the system message of conversations that have none.

    **Other arguments:**

    - `path`: read a registered task from this file or folder instead of the hub.
    - `config`: the hub's configuration of a data set.
    - `question`, `answer`: the columns to use, where they have other names.
    - `seed`: of the arithmetic tasks; rows of data sets keep their order.
    - `needs_answers`: if False, rows may lack an answer: `Problem.answer` is None there. For rewards that need none.
    - `special_tokens`: read special tokens that the data writes out as special tokens. By default they stay text.

    Rows with a column `prompt` are used as they are, unless `question` or `template` is given; in a chat it may be a
    list of messages, with a system message and earlier turns. `Problem.id` is the row's position, and `Problem.columns`
    hold what the prompt and the answer were not made of, and a column `solution` in any case: reward functions written
    for TRL read it.
    """
    if template is not None:
        template = check_template(template)
    if task in ARITHMETIC:
        named = {"path": path, "config": config, "question": question, "answer": answer}
        for name, value in named.items():
            if value is not None:
                raise UserError(f"{name} is {value!r}; the task {task!r} makes its own problems and has no {name}.")
        form = PromptForm(template or (PLACE if chat else arithmetic.TEMPLATE), chat, system, special_tokens)
        return _arithmetic(task, split, limit, form, seed)
    spec, source = _find(task, path)
    if source == spec.hub:
        split, config = _hub_split(spec, split), config or spec.config
    rows = load_rows(source, split=split, config=config, limit=limit, usual_split=usual_split)
    has_prompt = question is None and template is None and any("prompt" in row for row in rows)
    template = PLACE if has_prompt else template or (MATH_MESSAGE if chat else MATH_TEMPLATE)
    form = PromptForm(template, chat, system, special_tokens)
    questions = ("prompt",) if has_prompt else spec.questions if question is None else (question,)
    problems = _problems(rows, spec, source, form, questions=questions, answer=answer, needs_answers=needs_answers)
    return TaskData(problems, template)


def _arithmetic(task: str, split: str | None, limit: int | None, form: PromptForm, seed: int) -> TaskData:
    split = split or "train"
    count = limit if limit is not None else (ARITHMETIC_COUNT if split != "train" else ARITHMETIC_TRAIN_COUNT)
    if count > _MOST_MADE:
        raise UserError(f"limit is {count:,}; the task {task!r} makes at most {_MOST_MADE:,} problems. Lower it.")
    made = arithmetic.problems(split, count, difficulty=ARITHMETIC[task], seed=seed)
    problems = [form.problem(p.id, p.columns["question"], p.answer, p.columns) for p in made]
    return TaskData(problems, form.template)


def _find(task: str, path: str | None) -> tuple[TaskSpec, str]:
    """How to read the task's rows, and where they are."""
    for spec in TASKS.values():
        if task in (spec.name, spec.hub):
            return spec, path or spec.hub
    if path is not None:
        raise UserError(f"task is {task!r}; with a path it has to be one of {', '.join(TASKS)}.")
    looks_like_path = any(mark in task for mark in "/\\.~")
    if not looks_like_path and not is_hub_name(task):
        raise UserError(
            f"task is {task!r}; it must be one of {', '.join([*ARITHMETIC, *TASKS])}, the path of a file "
            f"such as ./{task}.jsonl, or a data set of the Hugging Face hub as owner/name."
        )
    return TaskSpec(name=task, hub=task, splits={}, answers={"answer": final_answer, SOLUTION: solution_answer}), task


def _hub_split(spec: TaskSpec, split: str | None) -> str | None:
    if not spec.splits:  # an unregistered data set
        return split
    if split is None:
        return next(iter(spec.splits.values()))
    if split not in spec.splits:
        raise UserError(f"split is {split!r}; the task {spec.name!r} has {', '.join(spec.splits)}.")
    return spec.splits[split]


def _problems(
    rows: list[Row],
    spec: TaskSpec,
    source: str,
    form: PromptForm,
    *,
    questions: tuple[str, ...],
    answer: str | None,
    needs_answers: bool,
) -> list[Problem]:
    asked = column_in(rows, questions, source=source, advice="Name the right one with the option question.")
    names = tuple(spec.answers) if answer is None else (answer,)
    answered = None
    if needs_answers or answer is not None or any(name in row for row in rows for name in names):
        answered = column_in(rows, names, source=source, advice=_NO_ANSWERS)
    read = final_answer if answered is None else spec.answers.get(answered, final_answer)
    problems = []
    for position, row in enumerate(rows):
        where = f"{source}, row {position} (the first is row 0)"
        columns = {
            name: value for name, value in row.items() if name != asked and (name != answered or name == SOLUTION)
        }
        has_answer = answered is not None and (needs_answers or row.get(answered) is not None)
        expected = _answer_at(row, answered, read, where) if answered is not None and has_answer else None
        problems.append(_problem(form, position, row, asked, expected, columns, where))
    return problems


def _problem(
    form: PromptForm, position: int, row: Row, asked: str, answer: str | None, columns: Row, where: str
) -> Problem:
    if not is_conversation(row.get(asked)):
        return form.problem(position, text_at(row, asked, where=where), answer, columns)
    where = f"{where}: {asked!r}"
    if not form.reads_messages:
        raise UserError(
            f"{where} is a list of {len(row[asked])}, which does not fit into the template. It has to be a text; for a "
            "list of messages, add --chat and --template '{question}'."
        )
    if not form.chat:
        raise UserError(f"{where} is a list of messages; add --chat, so that the model's chat template makes a prompt")
    return form.conversation(position, as_messages(row[asked], where=where), answer, columns)


def _answer_at(row: Row, column: str, read: Reader, where: str) -> str:
    value = present_at(row, column, where=where)
    try:
        return read(value).strip()
    except UserError as error:
        raise UserError(f"{where}: {column!r}: {error}") from error
