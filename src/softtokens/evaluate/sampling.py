"""Fill a cell with samples: what is missing is drawn in batches, graded and appended to the cell's file.

The number of a sample names its random numbers, so what is drawn does not depend on the batches, nor on whether the
cell was filled at once, after a stop, or in two goes of 32.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from softtokens.evaluate.memory import Rows, is_out_of_memory
from softtokens.evaluate.samplefile import Sample, append_samples
from softtokens.models.hf import HFPolicy
from softtokens.rewards import Grader
from softtokens.rewards.extract import answer_in
from softtokens.rollout.batches import encode_prompts, sample_problems
from softtokens.rollout.decode import Limits
from softtokens.rollout.record import Rollout
from softtokens.thoughts import Thought
from softtokens.types import Problem

RowNames = list[tuple[int, int]]  # (position in the problems, number of the sample) of each row
Listener = Callable[[list[Sample]], None]  # called with the samples of each batch


@dataclasses.dataclass(frozen=True)
class Sampler:
    """One model on one task."""

    policy: HFPolicy
    problems: Sequence[Problem]
    limits: Limits
    grader: Grader
    seed: int
    rows: Rows

    def fill(self, thought: Thought, samples: int, have: list[Sample], file: Path, listener: Listener) -> list[Sample]:
        """`samples` of each problem, those that the cell has included; new ones are appended to the file.

        Problems of similar prompt length share a batch. When memory runs out the batch is halved, and nothing is lost.
        """
        done = {(sample["problem"], sample["sample"]) for sample in have}
        lengths = [len(ids) for ids in encode_prompts(self.policy, self.problems)]
        order = sorted(range(len(self.problems)), key=lengths.__getitem__)
        todo = [(i, n) for i in order for n in range(samples) if (self.problems[i].id, n) not in done]
        found = list(have)
        while todo:
            part = todo[: self._allowed(todo)]
            drawn = self._try(thought, part)
            if drawn is None:
                self.rows.halve(len(part))
                continue
            append_samples(file, drawn)
            found += drawn
            todo = todo[len(part) :]
            listener(drawn)
        return found

    def draw(self, thought: Thought, rows: RowNames) -> Rollout:
        """These samples, as rollouts, in this order; rows of a problem have to be neighbours.

        The batch is filled up by repeating the last row, see `Rows.padding`.
        """
        filled = rows + [rows[-1]] * self.rows.padding(len(rows))
        of_problem: dict[int, list[int]] = {}
        for i, sample in filled:
            of_problem.setdefault(i, []).append(sample)
        ordered = [(i, sample) for i, own in of_problem.items() for sample in own]
        assert ordered == filled, "rows of a problem are neighbours"
        chosen = [self.problems[i] for i in of_problem]
        rollout = sample_problems(self.policy, thought, chosen, list(of_problem.values()), self.limits, seed=self.seed)
        return rollout if len(filled) == len(rows) else rollout.take(torch.arange(len(rows), device=rollout.ids.device))

    def _allowed(self, todo: RowNames) -> int:
        """Rows of the next batch. Prompts get longer along the list, so it is asked for as long a batch as there is."""
        most = self.rows.allowed(encode_prompts(self.policy, [self.problems[todo[-1][0]]]), self.limits)
        return min(most, len(todo))

    def _try(self, thought: Thought, part: RowNames) -> list[Sample] | None:
        """The samples of a batch; None when memory ran out."""
        started = time.perf_counter()
        try:
            rollout = self.draw(thought, part)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return None
        seconds = (time.perf_counter() - started) / len(part)
        verdicts = self.grader.grade(rollout.answer_texts, [self.problems[i].answer for i, _ in part])
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
                "stop": rollout.stop_reasons[row].value,
                "seconds": seconds,
            }
            for row, (i, sample) in enumerate(part)
        ]
