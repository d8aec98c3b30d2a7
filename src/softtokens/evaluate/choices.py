"""Out of domain: the likelihood of multiple-choice answers on topics that the model was not trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softtokens.evaluate.folder import SCHEMA, choices_file, read_result
from softtokens.evaluate.intervals import estimate
from softtokens.evaluate.nll import ChoiceScores, score_choices
from softtokens.files import write_json
from softtokens.models.hf import HFPolicy
from softtokens.types import ChoiceItem, UserError


def score_into(root: Path, model: str, name: str, policy: HFPolicy, items: Sequence[ChoiceItem]) -> None:
    """Score the items into choices/MODEL/NAME.json, unless that is done. UserError when the file belongs to other
    items."""
    file, made_from = choices_file(root, model, name), made_from_items(items)
    if not is_done(file, made_from):
        write_json(file, describe_scores(score_choices(policy, items), model, name, "local") | made_from)


def made_from_items(items: Sequence[ChoiceItem]) -> dict[str, Any]:
    which = json.dumps([[i.id, i.prompt, i.choices, i.answer] for i in items])
    return {"source": "local", "sha256": hashlib.sha256(which.encode()).hexdigest()}


def require_same_items(root: Path, name: str, made_from: dict[str, Any]) -> None:
    """UserError when any model of the folder has choices of this name from another source."""
    for file in sorted((root / "choices").glob(f"*/{name}.json")):
        is_done(file, made_from)


def is_done(file: Path, made_from: dict[str, Any]) -> bool:
    """Whether a result file exists. UserError when it was made from something else."""
    result = read_result(file)
    if result is None:
        return False
    if {key: result.get(key) for key in made_from} != made_from:
        raise UserError(
            f"{file} was made from other items or with other options; move it away, or choose another name or folder"
        )
    return True


def describe_scores(scores: ChoiceScores, model: str, name: str, source: str) -> dict[str, Any]:
    """The content of the file (docs/evaluation.md)."""
    return {
        "schema": SCHEMA,
        "model": model,
        "name": name,
        "source": source,
        "items": len(scores.correct),
        "accuracy": estimate(scores.correct, shares=True),
        "accuracy_normalized": estimate(scores.correct_normalized, shares=True),
        "nll_per_token": estimate(scores.nll_per_token),
        "per_item": {
            "correct": scores.correct.astype(int).tolist(),
            "correct_normalized": scores.correct_normalized.astype(int).tolist(),
            "nll_per_token": scores.nll_per_token.tolist(),
        },
    }
