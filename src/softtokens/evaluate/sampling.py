"""Fill a cell with samples: missing samples are drawn, graded and appended to the cell's file as they finish.

A sample's number determines its random numbers. What is drawn therefore does not depend on how many run together, nor
on whether the cell was filled at once, after an interruption, or in two steps.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from softtokens.evaluate.batch_size import BatchSize
from softtokens.evaluate.sample_file import Sample, append_samples
from softtokens.evaluate.share import Share
from softtokens.models.hf import HFPolicy
from softtokens.ops.random import evaluation_seed
from softtokens.rewards import Grader
from softtokens.rewards.extract import answer_in
from softtokens.rollout.batches import RowName, encode_prompts, in_order_of_length, sample_problems, stream_problems
from softtokens.rollout.decoder import Decoder
from softtokens.rollout.limits import Limits
from softtokens.rollout.memory import ROW_MULTIPLE, with_fewer_slots
from softtokens.rollout.record import Rollout
from softtokens.thoughts import Thought
from softtokens.types import Problem, Verdict, answers_of

Listener = Callable[[list[Sample]], None]  # called with the samples of each batch


@dataclasses.dataclass(frozen=True)
class Sampler:
    """One model on one task."""

    decoder: Decoder[HFPolicy]
    problems: Sequence[Problem]
    limits: Limits
    grader: Grader
    seed: int
    batch_size: BatchSize

    @property
    def policy(self) -> HFPolicy:
        return self.decoder.policy

    def fill(self, thought: Thought, rows: list[RowName], file: Path, listener: Listener) -> None:
        """Draw these samples, in the order of `rows`, and append them to the file as they end.

        When memory runs out fewer rows run at a time; what has ended is kept.
        """
        done: set[tuple[int, int]] = set()

        def missing() -> list[RowName]:
            return [(i, n) for i, n in rows if (self.problems[i].id, n) not in done]

        def fill_missing(slots: int) -> None:
            for drawn in self._stream(thought, missing(), slots):
                append_samples(file, drawn)
                done.update((sample["problem"], sample["sample"]) for sample in drawn)
                listener(drawn)

        if todo := missing():
            allowed = self._allowed(todo)
            _, slots = with_fewer_slots(allowed, fill_missing, self.decoder)
            if slots < allowed:
                self.batch_size.lower(slots)

    def rows(self, samples: int, share: Share) -> list[RowName]:
        """`samples` of each problem in a share, in order of length. Problems are dealt, not rows, so that each prompt
        runs once."""
        rows = in_order_of_length(self.policy, self.problems, range(samples))
        place = {problem: number for number, problem in enumerate(dict.fromkeys(i for i, _ in rows))}
        return [(i, n) for i, n in rows if share.has(place[i])]

    def draw(self, thought: Thought, rows: list[RowName]) -> Rollout:
        """These samples, as rollouts, in this order; rows of a problem have to be neighbours."""
        of_problem: dict[int, list[int]] = {}
        for i, sample in rows:
            of_problem.setdefault(i, []).append(sample)
        ordered = [(i, sample) for i, own in of_problem.items() for sample in own]
        assert ordered == rows, "rows of a problem are neighbours"
        chosen = [self.problems[i] for i in of_problem]
        seed = evaluation_seed(self.seed)
        return sample_problems(
            self.policy, thought, chosen, list(of_problem.values()), self.limits, seed=seed, decoder=self.decoder
        )

    def _allowed(self, todo: list[RowName]) -> int:
        """Rows at a time. Prompts get longer along the list, so it is asked for the longest."""
        most = self.batch_size.allowed(encode_prompts(self.policy, [self.problems[todo[-1][0]]]), self.limits)
        return min(most, len(todo)) if len(todo) < ROW_MULTIPLE and most < ROW_MULTIPLE else most

    def _stream(self, thought: Thought, todo: list[RowName], slots: int) -> Iterator[list[Sample]]:
        started, seed = time.perf_counter(), evaluation_seed(self.seed)
        for rows, rollout in stream_problems(
            self.policy, thought, self.problems, todo, self.limits, seed=seed, slots=slots, decoder=self.decoder
        ):
            seconds = (time.perf_counter() - started) / len(rows)
            yield self._samples(rows, rollout, seconds)
            started = time.perf_counter()

    def _samples(self, rows: list[RowName], rollout: Rollout, seconds: float) -> list[Sample]:
        verdicts = self.grader.grade(rollout.answer_texts, answers_of(self.problems[i] for i, _ in rows))
        thoughts, answers = rollout.thought_lengths.tolist(), rollout.answer_lengths.tolist()
        return [
            {
                "problem": self.problems[i].id,
                "sample": sample,
                "seed": self.seed,
                "thoughts": rollout.thought_texts[row],
                "answer": rollout.answer_texts[row],
                "extracted": answer_in(rollout.answer_texts[row]),
                "expected": self.problems[i].answer,
                "verdict": verdicts[row].value,
                "thought_length": thoughts[row],
                "answer_length": answers[row],
                "stop": rollout.stop_reasons[row],
                "seconds": seconds,
            }
            for row, (i, sample) in enumerate(rows)
        ]


def count_right(
    decoder: Decoder,
    thought: Thought,
    problems: Sequence[Problem],
    limits: Limits,
    grader: Grader,
    *,
    seed: int,
    slots: int,
    samples: int = 1,
) -> list[int]:
    """How many of the samples of each problem are right. slots: how many run at a time."""
    right = [0] * len(problems)
    if not problems:
        return right
    policy = decoder.policy
    rows = in_order_of_length(policy, problems, range(samples))
    for finished, rollout in stream_problems(
        policy, thought, problems, rows, limits, seed=seed, slots=slots, decoder=decoder
    ):
        verdicts = grader.grade(rollout.answer_texts, answers_of(problems[i] for i, _ in finished))
        for (i, _), verdict in zip(finished, verdicts, strict=True):
            right[i] += verdict is Verdict.RIGHT
    return right
