"""The numbers of a cell, from its samples."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from softtokens.evaluate.cells import Cell
from softtokens.evaluate.folder import SCHEMA
from softtokens.evaluate.intervals import estimates
from softtokens.evaluate.passk import MAX_VOTERS, maj_at_k, pass_at_k
from softtokens.evaluate.samplefile import Sample
from softtokens.types import StopReason, Verdict

_NUMBER = re.compile(r"(-?)([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+|(?=\.[0-9]))(?:\.([0-9]*))?", re.ASCII)


def summarize(
    samples: Sequence[Sample], problem_ids: Sequence[int], model: str, task: str, cell: Cell, seed: int
) -> dict[str, Any]:
    """The content of summary.json (docs/evaluation.md); every problem has the same number of samples."""
    of_problem: dict[int, list[Sample]] = {i: [] for i in problem_ids}
    for sample in samples:
        of_problem[sample["problem"]].append(sample)
    n = len(samples) // len(problem_ids)
    assert all(len(own) == n for own in of_problem.values()), "a cell is summarized when it is full"
    right = [sum(s["verdict"] == Verdict.RIGHT.value for s in own) for own in of_problem.values()]
    votes = [votes_of(own) for own in of_problem.values()]
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
        "problems": len(problem_ids),
        "samples": n,
        "seed": seed,
        "pass@k": pass_at,
        "maj@k": maj_at,
        "mean@n": pass_at["1"],  # the same number, by the name under which others report it
        "verdicts": {v.value: verdicts[v.value] / len(samples) for v in Verdict},
        "stops": {s.value: stops[s.value] / len(samples) for s in StopReason},
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


def votes_of(samples: Sequence[Sample]) -> list[list[int]]:
    """[[how many samples gave this answer, 1 if it is right], ...] of one problem, the most frequent first.

    Answers are the same when their texts are, but for white space, a dollar sign and a full stop at an end, and the
    commas and trailing zeros of plain numbers. Two ways of writing one value are two answers, right ones too.
    """
    counts: Counter[str] = Counter()
    right: set[str] = set()
    for sample in samples:
        if sample["extracted"] is not None:
            answer = normalized(sample["extracted"])
            counts[answer] += 1
            if sample["verdict"] == Verdict.RIGHT.value:
                right.add(answer)
    return [[count, int(answer in right)] for answer, count in counts.most_common()]


def normalized(answer: str) -> str:
    text = "".join(answer.split()).strip("$").rstrip(".")
    match = _NUMBER.fullmatch(text)
    if not match:
        return text
    sign, whole, decimals = match.groups()
    whole, decimals = whole.replace(",", "").lstrip("0") or "0", (decimals or "").rstrip("0")
    return f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}"


def _curves(right: list[int], votes: list, n: int) -> tuple[dict[str, Any], dict[str, Any]]:
    ks = range(1, n + 1)
    per_problem = [pass_at_k(right, n, k)[:, None] for k in ks]
    if n <= MAX_VOTERS:
        per_problem.append(maj_at_k(votes, n, ks))
    found = estimates(np.concatenate(per_problem, axis=1), shares=True)
    return tuple(
        {str(k): value for k, value in zip(ks, part, strict=False)} for part in (found[: len(ks)], found[len(ks) :])
    )
