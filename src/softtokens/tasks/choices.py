"""Multiple-choice questions, to measure whether training on one task made a model forget others."""

from __future__ import annotations

import string
from typing import Any

from softtokens.tasks import arithmetic
from softtokens.tasks.files import Row, column_in, load_rows, present_at, text_at
from softtokens.tasks.prompt import CHOICE_TEMPLATE, check_template, fill
from softtokens.types import ChoiceItem, UserError

FACTS = "facts"  # the everyday facts that come with the package
FACTS_COUNT = 200  # when no limit is given


def load_choice_items(
    source: str,
    *,
    split: str | None = None,
    config: str | None = None,
    limit: int | None = None,
    question: str = "question",
    choices: str = "choices",
    answer: str = "answer",
    template: str = CHOICE_TEMPLATE,
    seed: int = 0,
) -> list[ChoiceItem]:
    """The first `limit` items of a file, a folder or a hub data set; of `facts`, which `seed` draws, `limit` items.

    `question`, `choices` and `answer` name the columns. An answer is the position of the right choice, counted from 0
    (a number or its text), or its letter, A for the first. Each choice begins with a space, as in running text.
    """
    if source == FACTS:
        return arithmetic.multiple_choice(FACTS_COUNT if limit is None else limit, seed=seed)
    template = check_template(template)
    rows = load_rows(source, split=split, config=config, limit=limit)
    for parameter, column in (("question", question), ("choices", choices), ("answer", answer)):
        advice = f"Rename its column in the file, or in Python name it: load_choice_items(..., {parameter}=...)."
        column_in(rows, (column,), source=source, advice=advice)
    items = []
    for position, row in enumerate(rows):
        where = f"{source}, row {position} (the first is row 0)"
        texts = _choices_at(row, choices, where)
        right = _index(present_at(row, answer, where=where), len(texts), f"{where}: {answer!r}")
        prompt = fill(template, text_at(row, question, where=where).strip())
        items.append(ChoiceItem(position, prompt, texts, right))
    return items


def _choices_at(row: Row, column: str, where: str) -> tuple[str, ...]:
    value = present_at(row, column, where=where)
    if not isinstance(value, list) or len(value) < 2:
        raise UserError(f"{where}: {column!r} is {str(value)[:60]!r}; it has to be a list of at least 2 texts.")
    return tuple(
        f" {text_at({place: choice}, place, where=where).strip()}"
        for place, choice in ((f"{column}[{number}]", choice) for number, choice in enumerate(value))
    )


def _index(value: Any, count: int, what: str) -> int:
    letters = string.ascii_uppercase[:count]
    text = str(value).strip()
    if not isinstance(value, bool) and isinstance(value, (int, str)):
        if text in letters and len(text) == 1:
            return letters.index(text)
        if text.isascii() and text.isdecimal() and len(text) < 6 and int(text) < count:
            return int(text)
    raise UserError(f"{what} is {text[:60]!r}; it has to name one of {count} choices, as 0 to {count - 1} or a letter.")
