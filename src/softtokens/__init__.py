"""softtokens: train language models to think in hard, soft and fuzzy tokens, by reinforcement learning.

Names are loaded when first used, so that `import softtokens` (and every `--help`) does not wait for torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Ending": "endings",
    "Endings": "endings",
    "Problem": "types",
    "UserError": "types",
    "Verdict": "types",
    "Hard": "thoughts",
    "Gaussian": "thoughts",
    "LogitGaussian": "thoughts",
    "HiddenGaussian": "thoughts",
    "thought_setting": "thoughts",
    "kl": "thoughts",
    "Policy": "models.policy",
    "load_policy": "models.hf",
    "Limits": "rollout.limits",
    "Rollout": "rollout.record",
    "sample_rollout": "rollout.decode",
    "replay": "rollout.replay",
    "leave_one_out": "train.objective",
    "load_problems": "tasks",
    "pass_at_k": "evaluate.passk",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'softtokens' has no public name {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"softtokens.{_HOME[name]}"), name)
