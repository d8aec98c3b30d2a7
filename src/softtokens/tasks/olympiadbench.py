"""OlympiadBench: the open-ended, text-only, English competition problems (He et al., arXiv 2402.14008)."""

from __future__ import annotations

from typing import Any

from softtokens.tasks.files import as_text
from softtokens.tasks.spec import TaskSpec, final_answer


def _joined(answers: Any) -> str:
    """The hub keeps a list of answers, each between dollar signs."""
    parts = answers if isinstance(answers, list) else [answers]
    text = ", ".join(as_text(part, what="the answer").replace("$", "").strip() for part in parts)
    return as_text(text, what="the answer")


OLYMPIADBENCH = TaskSpec(
    name="olympiadbench",
    hub="Hothan/OlympiadBench",
    config="OE_TO_maths_en_COMP",
    splits={"test": "train"},  # the hub calls its only split train
    answers={"answer": final_answer, "final_answer": _joined},
)
