"""Validation: the share of problems that the model solves greedily while it is trained; the best checkpoint is kept."""

from __future__ import annotations

import dataclasses
import logging

from softtokens.evaluate.sampling import count_right
from softtokens.rewards import Grader
from softtokens.thoughts import build_thought
from softtokens.train.checkpoint import Progress
from softtokens.train.problem_record import Record
from softtokens.train.trainee import Trainee
from softtokens.types import Problem

log = logging.getLogger(__name__)


def validate(t: Trainee, problems: list[Problem], judge: Grader) -> float:
    """Share of problems solved greedily in the mode that is trained: noise-free thoughts, greedy answers."""
    sampler = t.weights.sampler
    thought = build_thought(t.config.thought, sampler.embedding_rms, greedy=True)
    limits = dataclasses.replace(t.limits, answer_temperature=0.0)
    my_problems = [problems[i] for i in t.world.share(len(problems))]

    def solved(slots: int) -> int:
        return count_right(t.decoder, thought, my_problems, limits, judge, seed=t.config.seed, slots=slots)

    counts = t.world.gather(t.world.together(lambda: t.batch_sizes.sampling("validation_slots", t.decoder, solved)))
    return sum(counts) / len(problems)


def with_validation_of(progress: Progress, record: Record) -> Progress:
    """Reset the record of the best checkpoint if the validation problems changed, because accuracies are not
    comparable."""
    validation = record["validation"]
    if not validation["problems"] or progress.validation == validation["sha256"]:
        return progress
    if progress.best_step is not None:
        log.warning("the validation problems have changed; the choice of the best checkpoint starts again")
    return dataclasses.replace(progress, best_step=None, best_accuracy=-1.0, validation=str(validation["sha256"]))
