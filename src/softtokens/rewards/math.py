"""The grader for mathematics: Math-Verify in worker processes that can be killed, so that no text can stop a run."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from softtokens.rewards.exact import normalize
from softtokens.rewards.extract import answer_in
from softtokens.rewards.pool import Failure, WorkerPool
from softtokens.types import Verdict

_INTEGER = re.compile(r"-?[0-9]+", re.ASCII)
# Signs that mean "not this number" or "several numbers"; Math-Verify ignores some of them.
_OTHER_NUMBERS = re.compile(r"\\(?:pm|mp|not|neq?|leq?|geq?|lt|gt)(?![A-Za-z])|[±∓≠≤≥<>]|\bnot\b")
_ONE_VALUE = re.compile(r"[^,()\[\]]*")  # neither a list nor an interval, which `x > 3` may stand for
_TOTAL_FAILURE = 8  # after this many different failures in a row the grader itself is broken


class MathGrader:
    r"""Right when Math-Verify finds the boxed answer equal to the expected one: `\frac{1}{2}` equals `0.5`.

    `timeout_s` bounds each answer (the worker is killed), so a call takes at most
    `timeout_s * different answers / workers`, and that only if every one of them is hostile. An answer longer than
    `max_answer_characters` is WRONG unless it equals the expected one: it stands in a box and can be read, but parsing
    it would cost seconds, and no expected answer is that long.
    """

    def __init__(self, *, workers: int = 2, timeout_s: float = 5.0, max_answer_characters: int = 2000):
        if workers < 1:
            raise ValueError(f"workers is {workers}; grading needs at least 1 worker process.")
        if timeout_s <= 0:
            raise ValueError(f"timeout_s is {timeout_s}; give each answer more than 0 seconds.")
        self._max_answer_characters = max_answer_characters
        # -P: a file in the working directory must not shadow a library of the worker.
        command = [sys.executable or "python", "-P", "-m", "softtokens.rewards.worker", str(timeout_s)]
        self._pool = WorkerPool(command, workers=workers, timeout_s=timeout_s)
        self._failed: set[tuple[str | None, str]] = set()  # failures since the last answer that could be judged

    def grade(self, completions: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        return self._judge(
            [(answer_in(completion), answer) for completion, answer in zip(completions, answers, strict=True)]
        )

    def groups(self, answers: Sequence[str]) -> list[int]:
        """See `Grader.groups`. An answer that the workers fail on is grouped with those of the same text only."""
        first: dict[str, int] = {}
        position = [first.setdefault(normalize(answer), i) for i, answer in enumerate(answers)]
        short = [i for i in sorted(first.values()) if len(answers[i]) <= self._max_answer_characters]
        outcomes = self._pool.ask_all([{"answer": answers[i]} for i in short])
        values = {i: o["value"] for i, o in zip(short, outcomes, strict=True) if isinstance(o, dict) and "value" in o}
        leader, rest = {}, list(values)
        while rest:
            head, *others = rest
            near = [i for i in others if _may_be_near(values[head], values[i])]
            verdicts = self._judge([(answers[i], answers[head]) for i in near])
            leader.update({i: head for i, verdict in zip(near, verdicts, strict=True) if verdict is Verdict.RIGHT})
            rest = [i for i in others if i not in leader]
        return [leader.get(i, i) for i in position]

    def _judge(self, pairs: Sequence[tuple[str | None, str]]) -> list[Verdict]:
        # The rollouts of a group often agree: each different pair is judged once.
        first = {pair: self._verdict_without_worker(*pair) for pair in pairs}
        verdicts = {pair: verdict for pair, verdict in first.items() if verdict is not None}
        unsure = [pair for pair in first if pair not in verdicts]
        verdicts.update(zip(unsure, self._verdicts_from_workers(unsure), strict=True))
        return [verdicts[pair] for pair in pairs]

    def _verdict_without_worker(self, given: str | None, expected: str) -> Verdict | None:
        """The verdict where Math-Verify is not needed or not safe to ask; None where it has to decide."""
        if given is None:
            return Verdict.NO_ANSWER
        given_normal, expected_normal = normalize(given), normalize(expected)
        if given_normal == expected_normal:
            return Verdict.RIGHT
        # Only integers: Math-Verify lets 0.333333 pass for 0.3333333333.
        if _INTEGER.fullmatch(given_normal) and _INTEGER.fullmatch(expected_normal):
            return Verdict.WRONG
        if _ONE_VALUE.fullmatch(expected) and _OTHER_NUMBERS.search(given) and not _OTHER_NUMBERS.search(expected):
            return Verdict.WRONG
        return Verdict.WRONG if len(given) > self._max_answer_characters else None

    def _verdicts_from_workers(self, pairs: Sequence[tuple[str | None, str]]) -> list[Verdict]:
        outcomes = self._pool.ask_all([{"given": given, "expected": expected} for given, expected in pairs])
        verdicts = [_read(outcome) for outcome in outcomes]
        if any(verdict in (Verdict.RIGHT, Verdict.WRONG) for verdict in verdicts):
            self._failed.clear()
        else:
            failed = zip(pairs, verdicts, strict=True)
            self._failed.update(pair for pair, verdict in failed if verdict is Verdict.GRADER_ERROR)
        if len(self._failed) >= _TOTAL_FAILURE:
            raise RuntimeError(
                f"the math grader failed on each of the last {len(self._failed)} answers, so the grader is at fault "
                f"and not the texts (last outcome: {outcomes[-1]}). Check that `import math_verify` works and that "
                'memory is free, or use grader "exact".'
            )
        return verdicts

    def close(self) -> None:
        self._pool.close()

    def __enter__(self) -> MathGrader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _may_be_near(one: float | None, other: float | None) -> bool:
    """Whether two answers are close enough to be worth comparing. Twice the grader's tolerance apart is not."""
    return one is None or other is None or abs(one - other) <= 1e-5 * max(abs(one), abs(other))


def _read(outcome: dict | Failure) -> Verdict:
    if outcome is Failure.TIMEOUT:
        return Verdict.GRADER_TIMEOUT
    if outcome is Failure.CRASH or "error" in outcome:
        return Verdict.GRADER_ERROR
    return Verdict.RIGHT if outcome["right"] else Verdict.WRONG
