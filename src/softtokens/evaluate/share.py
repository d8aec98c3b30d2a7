"""Which part of an evaluation a process does, and the files in which processes meet.

Problems are dealt to the processes of a cell. Each appends to a file of its own, and the process that ends last finds
that all samples are there and merges them. So processes need nothing in common but the folder: torchrun, srun or a job
array will do, and any number of processes may continue what another number began.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from softtokens.config.evaluate import EvaluateConfig
from softtokens.evaluate.sample_file import Sample, read_samples
from softtokens.world.launch import Launch, launch

SAMPLES = "samples.jsonl"
_PARTS = "samples-*-of-*.jsonl"


@dataclasses.dataclass(frozen=True)
class Share:
    """Part `rank` of `size` parts. waits: whether the main process waits for the others, which run at the same time."""

    rank: int = 0
    size: int = 1
    waits: bool = False

    @staticmethod
    def of(config: EvaluateConfig, launched: Launch | None = None) -> Share:
        """As configured, or else as launched."""
        if config.world is not None and config.rank is not None:
            return Share(config.rank, config.world)
        launched = launched or launch()
        return Share(launched.rank, launched.size, waits=launched.size > 1)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def has(self, number: int) -> bool:
        """Whether the number-th of several things is dealt to this process."""
        return number % self.size == self.rank

    def file(self, cell: Path) -> Path:
        """Where this process appends samples of a cell."""
        return cell / (SAMPLES if self.size == 1 else f"samples-{self.rank}-of-{self.size}.jsonl")

    def samples(self, cell: Path, problem_ids: Sequence[int], seed: int) -> list[Sample]:
        """All samples of a cell so far, of all processes. Damaged lines are dropped from this process's own file only:
        other processes may be writing theirs."""
        own = self.file(cell)
        samples = read_samples(own, problem_ids, seed)
        for file in (cell / SAMPLES, *sorted(cell.glob(_PARTS))):
            if file != own:
                samples += read_samples(file, problem_ids, seed, repair=False)
        return list({(sample["problem"], sample["sample"]): sample for sample in samples}.values())


def remove_parts(cell: Path) -> None:
    for file in cell.glob(_PARTS):
        file.unlink(missing_ok=True)
