"""The models of an evaluation: their names, their training, and the fingerprint of their weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from softtokens.config.evaluate import EvaluateConfig
from softtokens.config.task import TaskConfig
from softtokens.config.thought import ThoughtConfig
from softtokens.config.toml import from_dict
from softtokens.evaluate.named_sources import named_sources
from softtokens.files import expanded
from softtokens.models.checkpoint_paths import best_checkpoint
from softtokens.models.hf import HFPolicy, load_policy, resolve_device
from softtokens.task_setup import problems_sha256
from softtokens.types import UserError

_PIECE = 1 << 26  # elements hashed at once


@dataclasses.dataclass
class Models:
    """name -> path. Models are loaded one at a time; the last one is kept."""

    paths: dict[str, str]
    config: EvaluateConfig
    _loaded: tuple[str, HFPolicy] | None = None

    @staticmethod
    def of(config: EvaluateConfig) -> Models:
        paths = named_sources("models", config.models)
        for name, path in paths.items():
            _require_checkpoint(name, path)
        return Models(paths, config)

    def load(self, name: str) -> HFPolicy:
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None  # free the previous model first
            self._loaded = (name, self.load_additional(name))
        return self._loaded[1]

    def load_additional(self, name: str) -> HFPolicy:
        """Load it without dropping the one that is kept."""
        config = self.config
        device, dtype = resolve_device(config.device), getattr(torch, config.dtype)
        return load_policy(self.paths[name], device=device, dtype=dtype, mask_unused=config.mask_unused)

    def thought_in_training(self, name: str) -> ThoughtConfig | None:
        return thought_in_training(self.paths[name])

    def describe(self, name: str) -> dict[str, Any]:
        """The entry of evaluation.json."""
        path = self.paths[name]
        return {"name": name, "path": path, "trained": trained_with(path), "weights": fingerprint(self.load(name))}


def trained_with(path: str) -> dict[str, Any] | None:
    """The training of a run directory, or of a checkpoint in one; None for other models."""
    run, config = _run_of(path)
    if config is None:
        return None
    return {
        "mode": config["thought"]["mode"],
        "base": config.get("model"),
        "task": config["task"].get("name"),
        "seed": config.get("seed"),
        "steps": config.get("steps"),
        "run": str(run),
    }


def thought_in_training(path: str) -> ThoughtConfig | None:
    """The thought configuration that a run directory, or a checkpoint in one, was trained with; None for other
    models. UserError if the run's configuration has values that this version does not know."""
    run, config = _run_of(path)
    return None if config is None else from_dict(ThoughtConfig, config["thought"], where=f"{run / 'config.json'}: ")


def _run_of(path: str) -> tuple[Path, dict[str, Any] | None]:
    """The run that a path names or lies in, and its configuration; None for models without a run."""
    folder = Path(expanded(path))
    for run in (folder, *best_checkpoint(folder).resolve().parents[1:2]):
        if (config := _run_config(run)) is not None:
            return run, config
    return folder, None


def _run_config(run: Path) -> dict[str, Any] | None:
    try:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    tables = isinstance(config, dict) and all(isinstance(config.get(key), dict) for key in ("thought", "task"))
    return config if tables and "mode" in config["thought"] else None


def _require_checkpoint(name: str, path: str) -> None:
    folder = Path(path)
    if _run_config(folder) is not None and best_checkpoint(folder) == folder:
        raise UserError(f"model {name!r} is {path!r}, a training run that has no checkpoint yet; let it reach a save")


@torch.no_grad()
def fingerprint(policy: HFPolicy) -> str:
    """SHA-256 of everything that samples depend on: the weights, the tokenizer and the unit of the noise."""
    digest = hashlib.sha256()
    for name, tensor in sorted(policy.model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().reshape(-1).view(torch.uint8)
        for start in range(0, flat.numel(), _PIECE):
            digest.update(flat[start : start + _PIECE].cpu().numpy().tobytes())
    digest.update(json.dumps(sorted(policy.tokenizer.get_vocab().items())).encode())
    digest.update(str(policy.tokenizer.chat_template or "").encode())
    digest.update(f"{policy.embedding_rms!r} {sorted(policy.eos_ids)} {policy.vocabulary.size}".encode())
    return digest.hexdigest()


def task_entry(name: str, task: TaskConfig, problems: list) -> dict[str, Any]:
    """The entry of a task in evaluation.json."""
    return {
        "name": name,
        "source": task.path or task.name,
        "split": task.split or "test",
        "problems": len(problems),
        "config": dataclasses.asdict(task),
        "sha256": problems_sha256(problems),
    }
