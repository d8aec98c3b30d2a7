"""Write a checkpoint as an ordinary model folder, with adapters merged into the weights of their base model."""

from __future__ import annotations

from pathlib import Path

import torch

from softtokens.config.commands import ExportConfig
from softtokens.files import new_folder
from softtokens.models.hf import load_policy


def export(config: ExportConfig) -> Path:
    """Write the folder. UserError when the model cannot be loaded or the folder is not empty."""
    policy = load_policy(config.model, dtype=torch.float32)
    dtype = getattr(torch, config.dtype)
    if dtype != torch.float32:
        policy.model.to(dtype)
    folder = new_folder(config.output)
    policy.save(folder)
    return folder
