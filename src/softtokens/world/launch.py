"""The rank of this process, from the environment that its launcher set. Knows no torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from softtokens.types import UserError


@dataclasses.dataclass(frozen=True)
class Launch:
    """rank, of size processes in all; local_rank, of local_size processes on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0


def launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """Rank and sizes from torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE), or from Slurm's srun.

    Slurm's variables count only if MASTER_ADDR and MASTER_PORT are set too, because they exist in every shell of a job,
    also for a single process. UserError for a contradiction.
    """
    if "RANK" in environment or "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        rank, size = (_number(environment, name) for name in names[:2])
        local_rank = _number(environment, names[2], rank)
        local_size = _number(environment, names[3], size)
    elif "SLURM_PROCID" in environment and {"MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
        rank, size = (_number(environment, name) for name in ("SLURM_PROCID", "SLURM_NTASKS"))
        local_rank = _number(environment, "SLURM_LOCALID")
        local_size = max(1, size // _number(environment, "SLURM_NNODES", 1))
    else:
        return Launch()
    if not 0 <= rank < size or not 0 <= local_rank < local_size <= size:
        raise UserError(
            f"the launcher set process {rank} of {size}, {local_rank} of {local_size} on this machine, which is "
            "impossible; start with torchrun or srun, or unset RANK and WORLD_SIZE"
        )
    return Launch(rank, size, local_rank, local_size)


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    value: Any = environment.get(name, default)
    try:
        return int(value)
    except (TypeError, ValueError):
        problem = "is not set" if value is None else f"is {value!r}"
        raise UserError(
            f"{name} {problem}; it must be a whole number. Start with torchrun or srun, or unset RANK and WORLD_SIZE"
        ) from None
