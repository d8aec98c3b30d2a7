"""Configuration of `softtokens plan`. Knows no torch."""

from __future__ import annotations

import dataclasses

from softtokens.config.fields import require
from softtokens.config.train import TrainConfig
from softtokens.types import UserError


@dataclasses.dataclass(frozen=True)
class PlanConfig(TrainConfig):
    """Estimate the memory and time of a training run, without its weights or data. Takes the flags of train."""

    on: str = "here"
    """Device to plan for: here (measured in a second), h200, h100, a100, a100-40, l40s or rtx4090. For any other device, give its numbers with the three flags below."""
    memory_gb: float | None = None
    """Memory of a device in units of 1e9 bytes, instead of the table's."""
    bandwidth_gb_s: float | None = None
    """Memory bandwidth in units of 1e9 bytes per second, instead of the table's."""
    tflops: float | None = None
    """Peak matrix throughput in the run's dtype, in units of 1e12 operations per second, instead of the table's."""
    processes: int = 1
    """Number of processes, one per device."""
    per_machine: int = 8
    """Processes per machine (hsdp shards over these)."""
    prompt_tokens: int = 256
    """Length of the longest prompt."""
    json: bool = False
    """Print the plan as JSON."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start is not None:
            raise UserError(
                f"from is {self.start!r}; the plan command starts from no checkpoint; give the model with --model"
            )
        for name in ("processes", "per_machine", "prompt_tokens"):
            require(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        for name in ("memory_gb", "bandwidth_gb_s", "tflops"):
            value = getattr(self, name)
            require(name, value, value is None or 0 < value < float("inf"), "a positive number, or omitted")
        even = self.processes <= self.per_machine or self.processes % self.per_machine == 0
        if self.scale.parallel == "hsdp" and not even:
            raise UserError(
                f"parallel is hsdp with {self.processes} processes, {self.per_machine} on a machine; it needs the same "
                "number on every machine. Use fsdp."
            )
        rows = self.problems_per_step * self.group_size
        require("processes", self.processes, self.processes <= rows, f"at most the {rows} rollouts of a step")
