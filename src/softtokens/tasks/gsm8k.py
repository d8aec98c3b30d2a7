"""GSM8K: grade-school word problems with whole-number answers (Cobbe et al., arXiv 2110.14168)."""

from __future__ import annotations

from typing import Any

from softtokens.tasks.spec import TaskSpec, final_answer


def _number(value: Any) -> str:
    return final_answer(value).replace(",", "")


GSM8K = TaskSpec(
    name="gsm8k",
    hub="openai/gsm8k",
    config="main",
    splits={"train": "train", "test": "test"},
    answers={"answer": _number},  # on the hub, the whole solution, ending in `#### 1,234`
)
