"""Measurements outside the cells: multiple-choice sets, tasks of lm-eval, and texts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from softtokens.config.evaluate import EvaluateConfig
from softtokens.evaluate.choices import is_done, made_from_items, require_same_items, score_into
from softtokens.evaluate.evaluated_models import Models
from softtokens.evaluate.folder import choices_file, preservation_file
from softtokens.evaluate.harness import Harness
from softtokens.evaluate.named_sources import named_sources
from softtokens.evaluate.nll import encoded_choices
from softtokens.evaluate.preservation import digest, encoded_texts, load_texts, preservation
from softtokens.evaluate.share import Share
from softtokens.files import write_json
from softtokens.models.hf import HFPolicy
from softtokens.tasks import load_choice_items
from softtokens.types import ChoiceItem, UserError


@dataclasses.dataclass(frozen=True)
class Outside:
    """What is measured of each model, and from what."""

    items: dict[str, list[ChoiceItem]]
    harness: Harness | None
    harness_tasks: tuple[str, ...]
    limit: int | None
    texts: list[str] | None
    base: str | None

    @staticmethod
    def of(config: EvaluateConfig) -> Outside:
        sources = named_sources("choices and harness", [*config.choices, *config.harness])
        items = {
            name: load_choice_items(source, limit=config.choices_limit)
            for name, source in sources.items()
            if source not in config.harness
        }
        harness = Harness(config.harness, config.harness_tasks) if config.harness else None
        texts = None if config.texts is None else load_texts(config.texts)
        return Outside(items, harness, config.harness, config.choices_limit, texts, config.base)

    @property
    def has_any(self) -> bool:
        return bool(self.items or self.harness_tasks or self.texts is not None)

    def check(self, root: Path, models: Models) -> None:
        """UserError when base is none of the models, there is nothing to hold against it, or the folder has results of
        other items under these names, or of other texts."""
        for name, items in self.items.items():
            require_same_items(root, name, made_from_items(items))
        for name in self.harness_tasks:
            require_same_items(root, name, self._made_from_task())
        if self.texts is None:
            return
        if self.base is not None and self.base not in models.paths:
            raise UserError(f"base is {self.base!r}, which is not one of the models: {', '.join(models.paths)}")
        if len(models.paths) < 2:
            raise UserError("texts compares models with a base, but only one model is given; add another to --models")
        for file in sorted(preservation_file(root, "x").parent.glob("*.json")):
            is_done(file, {"sha256": digest(self.texts)})

    def require_room(self, policy: HFPolicy) -> None:
        """UserError when an item or a text cannot be fed to the model."""
        for items in self.items.values():
            encoded_choices(policy, items)
        encoded_texts(policy, self.texts or ())

    def _made_from_task(self) -> dict[str, Any]:
        return {"source": "lm-eval", "limit": self.limit}

    def files(self, root: Path, model: str, models: list[str]) -> list[Path]:
        """The result files of a model, in the order in which measurements are dealt to processes."""
        base = self.base or models[0]
        texts = [preservation_file(root, model)] if self.texts is not None and model != base else []
        return [choices_file(root, model, name) for name in (*self.items, *self.harness_tasks)] + texts

    def evaluate(self, root: Path, model: str, models: Models, share: Share) -> None:
        policy = models.load(model)
        files = self.files(root, model, list(models.paths))
        mine = {file for number, file in enumerate(files) if share.has(number)}
        for name, items in self.items.items():
            if choices_file(root, model, name) in mine:
                score_into(root, model, name, policy, items)
        for name in self.harness_tasks:
            assert self.harness is not None, "tasks of lm-eval come with it"
            file = choices_file(root, model, name)
            if file in mine and not is_done(file, self._made_from_task()):
                write_json(file, self.harness.score(policy, model, name, limit=self.limit))
        file = preservation_file(root, model)
        if file in mine:
            assert self.texts is not None, "their file is among this model's"
            base = self.base or next(iter(models.paths))
            if not is_done(file, {"base": base, "sha256": digest(self.texts)}):
                base_policy = models.load_additional(base)
                write_json(file, preservation(base_policy, policy, self.texts, (base, model)))
