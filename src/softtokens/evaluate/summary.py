"""The numbers of a cell, from its samples."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from softtokens.evaluate.cells import Cell
from softtokens.evaluate.folder import SCHEMA
from softtokens.evaluate.intervals import estimates
from softtokens.evaluate.passk import MAX_VOTERS, maj_at_k, pass_at_k
from softtokens.evaluate.sample_file import Sample
from softtokens.rewards import Grader
from softtokens.types import Verdict

_FAILED = (Verdict.GRADER_TIMEOUT.value, Verdict.GRADER_ERROR.value)


def summarize(
    samples: Sequence[Sample],
    problem_ids: Sequence[int],
    model: str,
    task: str,
    cell: Cell,
    seed: int,
    grader: Grader,
    stop_reasons: Sequence[str],
) -> dict[str, Any]:
    """The content of summary.json (docs/evaluation.md); every problem has the same number of samples.

    stop_reasons: the names that a sample's `stop` may have.
    """
    of_problem: dict[int, list[Sample]] = {i: [] for i in problem_ids}
    for sample in samples:
        of_problem[sample["problem"]].append(sample)
    n = len(samples) // len(problem_ids)
    assert all(len(own) == n for own in of_problem.values()), "a cell is summarized when it is full"
    right = [sum(s["verdict"] == Verdict.RIGHT.value for s in own) for own in of_problem.values()]
    votes = [votes_of(own, grader) for own in of_problem.values()]
    tokens = sum(s["thought_length"] + s["answer_length"] for s in samples)
    seconds = sum(s["seconds"] for s in samples)
    verdicts, stops = (Counter(s[key] for s in samples) for key in ("verdict", "stop"))
    thoughts = [s["thought_length"] for s in samples]
    pass_at, maj_at = _curves(right, votes, n)
    return {
        "schema": SCHEMA,
        "model": model,
        "task": task,
        "cell": cell.name,
        "setting": cell.setting,
        "temperature": cell.temperature,
        "gamma": cell.gamma,
        "thought": dataclasses.asdict(dataclasses.replace(cell.thought, tau=cell.thought.temperature)),
        "problems": len(problem_ids),
        "samples": n,
        "seed": seed,
        "pass@k": pass_at,
        "maj@k": maj_at,
        "mean@n": pass_at["1"],  # the same value under its common name
        "verdicts": {v.value: verdicts[v.value] / len(samples) for v in Verdict},
        "stops": {reason: stops[reason] / len(samples) for reason in stop_reasons},
        "thought_length": {
            "mean": float(np.mean(thoughts)),
            "median": float(np.median(thoughts)),
            "p95": float(np.quantile(thoughts, 0.95)),
        },
        "answer_length": {"mean": float(np.mean([s["answer_length"] for s in samples]))},
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds if seconds > 0 else None,
        "right": right,
        "votes": votes,
        "problem_ids": list(problem_ids),
    }


def votes_of(samples: Sequence[Sample], grader: Grader) -> list[list[int]]:
    """[[how many samples gave this answer, 1 if it is right], ...] of one problem, the most frequent first.

    The right answers are one: each equals the expected one. Of the others those are one that the grader finds equal.
    Others are compared with the most frequent answer first, so the order of samples does not matter.
    """
    answered = [sample for sample in samples if sample["extracted"] is not None]
    counts: Counter[str] = Counter(s["extracted"] for s in answered)
    right = {s["extracted"] for s in answered if s["verdict"] == Verdict.RIGHT.value}
    failed = {s["extracted"] for s in answered if s["verdict"] in _FAILED} - right
    wrong = sorted(counts.keys() - right - failed, key=lambda answer: (-counts[answer], answer))
    votes: Counter[str] = Counter({answer: counts[answer] for answer in failed})  # the grader would fail again
    for answer, first in zip(wrong, grader.groups(wrong), strict=True):
        votes[wrong[first]] += counts[answer]
    of_right = sum(counts[answer] for answer in right)
    tally = [[of_right, 1]] * bool(right) + [[count, 0] for count in votes.values()]
    return sorted(tally, key=lambda vote: -vote[0])


def _curves(right: list[int], votes: list, n: int) -> tuple[dict[str, Any], dict[str, Any]]:
    ks = range(1, n + 1)
    per_problem = [pass_at_k(right, n, k)[:, None] for k in ks]
    if n <= MAX_VOTERS:
        per_problem.append(maj_at_k(votes, n, ks))
    curve = estimates(np.concatenate(per_problem, axis=1), shares=True)
    passes, majorities = (
        {str(k): value for k, value in zip(ks, part, strict=False)} for part in (curve[: len(ks)], curve[len(ks) :])
    )
    return passes, majorities
