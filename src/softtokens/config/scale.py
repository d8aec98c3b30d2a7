"""How a training run is spread over devices and made to fit in them. Knows no torch."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from softtokens.config.fields import FREE, require, require_choice
from softtokens.types import UserError


@dataclasses.dataclass(frozen=True)
class ScaleConfig:
    """Devices, precision, memory and adapters."""

    parallel: Annotated[Literal["auto", "ddp", "fsdp", "hsdp"], FREE] = "auto"
    """With several processes (torchrun, srun). ddp: every process holds everything. fsdp: weights, gradients and optimizer state are sharded over all processes. hsdp: over the processes of each machine. auto: ddp."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the computation. The updated weights stay float32 either way (docs/scaling.md)."""
    activation_checkpointing: Annotated[Literal["auto", "always", "never"], FREE] = "auto"
    """Recompute activations in the backward pass instead of storing them: less memory, a third more work. auto: on a GPU, when a pass would otherwise hold fewer than 4096 positions."""
    lora_rank: int = 0
    """Train low-rank adapters of this rank (peft) instead of all weights; 0: all weights."""
    lora_alpha: float | None = None
    """Scale of the adapters; by default twice the rank."""
    lora_targets: tuple[str, ...] = ()
    """Linear layers that get adapters, by the end of their names; by default all linear layers of the blocks."""

    def __post_init__(self) -> None:
        require_choice("parallel", self.parallel, ("auto", "ddp", "fsdp", "hsdp"))
        require_choice("dtype", self.dtype, ("float32", "bfloat16"))
        require_choice("activation_checkpointing", self.activation_checkpointing, ("auto", "always", "never"))
        require("lora_rank", self.lora_rank, self.lora_rank >= 0, "0 (no adapters) or more")
        require("lora_alpha", self.lora_alpha, self.lora_alpha is None or self.lora_alpha > 0, "a positive number")
        if not self.lora_rank and (self.lora_alpha is not None or self.lora_targets):
            raise UserError("lora_alpha or lora_targets is given, but lora_rank is 0; give a rank such as 16")
