"""The command line with rewards that differ between texts, so that every step of a random model has a gradient.

    python driver.py THREADS HOOK_FILE train --output ...

The lines of HOOK_FILE run first: they make the process stop at a known place, or its disk full.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from softtokens import cli
from softtokens.signal import measure
from softtokens.train import loop, scoring
from softtokens.train.scoring import Scores

# Scripts of this folder can import each other, and stay offline.
_PATH = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
ENVIRONMENT = {**os.environ, "PYTHONPATH": _PATH, "HF_HUB_OFFLINE": "1"}


def reward_texts(setattr: Callable) -> None:
    def score(completions):
        texts = zip(completions.thoughts, completions.answers, strict=True)
        return Scores([float(sum(map(ord, t + a)) % 11) for t, a in texts])

    def scorer(config, judge, function=None, **columns):
        return score if function is None else scoring.scorer(config, judge, function, **columns)

    for module in (loop, measure):
        setattr(module, "scorer", scorer)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))  # as many as in the process that compares bits
    reward_texts(setattr)
    exec(Path(sys.argv[2]).read_text())
    sys.exit(cli.main(sys.argv[3:]))
