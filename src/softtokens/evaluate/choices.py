"""Out of domain: what a model knows of things it was not trained on, by the likelihood of multiple-choice answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softtokens.evaluate.folder import SCHEMA, choices_file, read_json, write_json
from softtokens.evaluate.intervals import estimate
from softtokens.evaluate.nll import ChoiceScores, score_choices
from softtokens.models.hf import HFPolicy
from softtokens.types import ChoiceItem, UserError


def score_into(root: Path, model: str, name: str, policy: HFPolicy, items: Sequence[ChoiceItem]) -> None:
    """Score the items into choices/MODEL/NAME.json, unless that is done. UserError when the file is of other items."""
    file = choices_file(root, model, name)
    which = hashlib.sha256(json.dumps([[i.id, i.prompt, i.choices, i.answer] for i in items]).encode()).hexdigest()
    if not is_done(file, {"source": "local", "sha256": which}):
        scores = score_choices(policy, items)
        write_json(file, describe_scores(scores, model, name, "local") | {"sha256": which})


def is_done(file: Path, made_from: dict[str, Any]) -> bool:
    """Whether a file of results is there. UserError when it was made from something else."""
    found = read_json(file)
    if found is None:
        return False
    if {key: found.get(key) for key in made_from} != made_from:
        raise UserError(
            f"{file} was made from other items or with other options; move it away, or give it another name"
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
