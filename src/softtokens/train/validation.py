"""Validation: how many problems the model solves while it is trained; the best checkpoint is kept."""

from __future__ import annotations

import dataclasses
import logging
import math

import numpy as np

from softtokens.config.thought import SETTINGS
from softtokens.config.train import ks_of
from softtokens.evaluate.passk import pass_at_k
from softtokens.evaluate.sampling import count_right
from softtokens.ops.random import evaluation_seed
from softtokens.rewards import Grader
from softtokens.thoughts import Thought, build_thought
from softtokens.train.checkpoint import Progress
from softtokens.train.problem_record import Record
from softtokens.train.trainee import Trainee
from softtokens.types import Problem

log = logging.getLogger(__name__)
ACCURACY = "validation/accuracy"


def validate(t: Trainee, problems: list[Problem], judge: Grader) -> dict[str, float]:
    """Metrics of the policy as it is, by the names of docs/metrics.md.

    `accuracy` is the share of problems solved greedily in the mode that is trained: noise-free thoughts, greedy
    answers. The settings that the configuration names give what `softtokens evaluate` gives with the run's seed.
    """
    config, greedy = t.config, build_thought(t.config.thought, t.weights.sampler.embedding_rms, greedy=True)
    solved = _right(t, greedy, problems, judge, samples=1)
    metrics = {ACCURACY: float(solved.mean()), f"{ACCURACY}_error": standard_error(solved)}
    for name in config.validation_settings:
        setting = SETTINGS.get(name)
        is_greedy, of_setting = (False, config.thought) if setting is None else (setting.is_greedy, setting.thought)
        thought = build_thought(of_setting, t.weights.sampler.embedding_rms, greedy=is_greedy)
        samples = 1 if is_greedy else config.validation_samples
        right = _right(t, thought, problems, judge, samples=samples)
        for k in ks_of(samples):
            solved = pass_at_k(right, samples, k)
            key = f"validation/{name}/pass@{k}"
            metrics |= {key: float(solved.mean()), f"{key}_error": standard_error(solved)}
    return metrics


def _right(t: Trainee, thought: Thought, problems: list[Problem], judge: Grader, *, samples: int) -> np.ndarray:
    """How many samples of each problem are right, of all processes."""
    limits = dataclasses.replace(t.limits, answer_temperature=0.0)
    my_problems = [problems[i] for i in t.world.share(len(problems))]
    seed = evaluation_seed(t.config.seed)

    def counts(slots: int) -> list[int]:
        return count_right(t.decoder, thought, my_problems, limits, judge, seed=seed, slots=slots, samples=samples)

    gathered = t.world.gather(t.world.together(lambda: t.batch_sizes.sampling("validation_slots", t.decoder, counts)))
    return np.array([count for part in gathered for count in part])


def standard_error(solved: np.ndarray) -> float:
    """Of the mean over problems; NaN for a single problem."""
    return float(solved.std(ddof=1) / math.sqrt(len(solved))) if len(solved) > 1 else math.nan


def with_validation_of(progress: Progress, record: Record, best_by: str) -> Progress:
    """Reset the record of the best checkpoint if the validation problems or the metric changed, because values are not
    comparable."""
    validation = record["validation"]
    judged_by = f"{validation['sha256']}{'' if best_by == 'accuracy' else ' ' + best_by}"
    if not validation["problems"] or progress.validation == judged_by:
        return progress
    if progress.best_step is not None:
        log.warning("the validation problems or best_by have changed; the choice of the best checkpoint starts again")
    return dataclasses.replace(progress, best_step=None, best_accuracy=-1.0, validation=judged_by)
