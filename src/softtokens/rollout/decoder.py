"""How decode steps run: one operation at a time, compiled, or recorded as CUDA graphs and replayed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from torch import Tensor

from softtokens.models.kv import SlotKV
from softtokens.models.policy import Policy
from softtokens.ops.compiling import compiled_or_plain, worth_compiling
from softtokens.rollout.machine import Machine, Slots, Tape
from softtokens.rollout.recording import KeptBuffers, Recorder, cuda_graphs

AnyPolicy = TypeVar("AnyPolicy", bound=Policy)
log = logging.getLogger(__name__)
Buffers = tuple[Machine, Slots, Tape, SlotKV]


class Decoder(Generic[AnyPolicy]):
    """Runs the decode steps of one policy. It owns compiled steps, recordings and their buffers, so keep one decoder
    for as long as the policy samples."""

    def __init__(self, policy: AnyPolicy):
        self.policy = policy
        self.recordings: KeptBuffers | None = None
        self._compiled_step: Callable[..., Tensor] | None = None
        self._compiled_emissions: dict[Hashable, Callable[..., None]] = {}

    def prepare(self, choice: str, steps: int, ways: int = 1) -> Decoder[AnyPolicy]:
        """Choose how steps run; returns the decoder. choice: auto, plain or compiled. steps: roughly how many steps
        will run. ways: how many different thoughts will be used.

        When compiling, one graph of the model serves all sizes, plus one graph per kind of emission. Each is compiled
        at its first use, which takes half a minute. A model that cannot be compiled, or a machine without a C++
        compiler, runs uncompiled after a warning. A model without a supported cache always runs uncompiled.
        """
        device, has_cache = self.policy.device, self.policy.has_cache
        records = device.type == "cuda" and choice != "plain" and has_cache
        self.recordings = KeptBuffers(cuda_graphs) if records else None
        compiles = worth_compiling(choice, steps, ways, device) and has_cache and not records
        if compiles and self._compiled_step is None:
            self._compiled_step = compiled_or_plain(self.policy.step, "decode steps")
            log.info("decode steps are compiled at their first use, which takes a minute or two")
        elif not compiles:
            self._compiled_step, self._compiled_emissions = None, {}
        return self

    def buffers(self, kind: Hashable, positions: int, make: Callable[[], Buffers]) -> tuple[Buffers, Recorder | None]:
        """What steps work on, new from `make`, or, where steps are recorded, kept from an earlier rollout of this kind
        with at least so many positions; and the recorder of its steps."""
        return (make(), None) if self.recordings is None else self.recordings.get(kind, positions, make)

    def step(self, inputs: Tensor, positions: Tensor, kv: SlotKV, view: int) -> Tensor:
        """`Policy.step`, run in the chosen way."""
        step = self.policy.step if self._compiled_step is None else self._compiled_step
        return step(inputs, positions, kv, view)

    def emit(self, machine: Machine, hidden: Tensor, s: Slots, tape: Tape, mixes: bool, draws: bool) -> None:
        """`Machine.emit`, run in the chosen way."""
        emit: Callable[..., None] = Machine.emit
        if self._compiled_step is not None:
            # of each kind its own: the compiler is slow with, and at last gives up on, what it compiled before
            thought = machine.thought
            numbers = thought if mixes or (draws and thought.is_drawn_token) else type(thought)
            kind = (numbers, machine.limits.answer_temperature, mixes, draws, not tape.stored)
            if kind not in self._compiled_emissions:
                self._compiled_emissions[kind] = compiled_or_plain(Machine.emit, "decode steps")
            emit = self._compiled_emissions[kind]
        emit(machine, hidden, s, tape, mixes, draws)

    def drop_recordings(self) -> None:
        """Free the buffers of recorded steps. They are recorded again when needed."""
        if self.recordings is not None:
            self.recordings.clear()
