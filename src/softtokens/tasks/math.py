"""MATH: competition problems (Hendrycks et al., arXiv 2103.03874), and MATH-500, the usual subset of its test split."""

from __future__ import annotations

import re
from typing import Any

from softtokens.latex import closing_brace
from softtokens.tasks.files import as_text
from softtokens.tasks.spec import TaskSpec, final_answer
from softtokens.types import UserError

_BOX = re.compile(r"\\(?:boxed|fbox)\s*")


def last_boxed(solution: Any) -> str:
    r"""The content of a solution's last box, `\boxed{x}` or `\boxed x`, which is where MATH keeps the answer."""
    text = as_text(solution, what="the solution")
    boxes = list(_BOX.finditer(text))
    if not boxes:
        raise UserError(r"the solution has no \boxed{...}, so it does not say what the answer is.")
    rest = text[boxes[-1].end() :]
    answer = _braced(rest) if rest.startswith("{") else re.split(r"[$\s]", rest, maxsplit=1)[0]
    return as_text(answer.strip(), what=r"the solution's last \boxed{...}")


def _braced(text: str) -> str:
    end = closing_brace(text, 1)
    if end is None:
        raise UserError(r"the solution's last \boxed{...} never ends.")
    return text[1:end]


def solution_answer(solution: Any) -> str:
    r"""The answer of a column `solution` as people have it: what its last box holds, or what follows `####`, or all of
    it."""
    text = as_text(solution, what="the solution")
    return last_boxed(text) if _BOX.search(text) else final_answer(text)


SOLUTION = "solution"
_ANSWERS = {"answer": final_answer, SOLUTION: last_boxed}

MATH = TaskSpec(
    name="math",
    hub="DigitalLearningGmbH/MATH-lighteval",
    splits={"train": "train", "test": "test"},
    answers=_ANSWERS,
)
MATH500 = TaskSpec(name="math500", hub="HuggingFaceH4/MATH-500", splits={"test": "test"}, answers=_ANSWERS)
