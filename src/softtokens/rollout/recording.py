"""Steps of the decode loop recorded once and replayed: on a GPU launching a step's kernels one by one takes ten times
longer than running them.

A recording has the addresses of its tensors and every number of the host in it, so steps run on buffers that stay
where they are from one rollout to the next, and there is one recording per combination of such numbers.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

import torch

from softtokens.types import first_line

log = logging.getLogger(__name__)
_KEPT = 2  # sets of buffers: the training's and the validation's

Record: TypeAlias = Callable[[Callable[[], None]], Callable[[], None]]
"""Turns a step into a function that repeats it, without running it."""


class Recorder:
    """Runs steps. The first step of a kind runs normally, which also warms it up; the second is recorded; the others
    are replayed.

    If recording fails, steps run normally after one warning.
    """

    def __init__(self, record: Record):
        self._record = record
        self._replays: dict[Hashable, Callable[[], None] | None] = {}
        self._works = True

    def run(self, kind: Hashable, step: Callable[[], None]) -> None:
        """kind: all numbers of the host that the step depends on."""
        if not self._works or kind not in self._replays:
            self._replays.setdefault(kind, None)
            step()
            return
        replay = self._replays[kind]
        if replay is None:
            try:
                replay = self._replays[kind] = self._record(step)
            except RuntimeError as error:
                self._works = False
                reason = first_line(error)
                log.warning("decode steps could not be recorded and run one by one, which is slower: %s", reason)
                step()
                return
        replay()


class KeptBuffers:
    """Buffers and the recordings made on them, by everything that both depend on; the last few. Larger buffers serve
    smaller needs too: the longest prompt of a batch changes from step to step.

    new_record: makes what records the steps of one set of buffers.
    """

    def __init__(self, new_record: Callable[[], Record]):
        self._new_record = new_record
        self._kept: OrderedDict[Hashable, tuple[int, Any, Recorder]] = OrderedDict()

    def get(self, kind: Hashable, positions: int, make: Callable[[], Any]) -> tuple[Any, Recorder]:
        """positions: how many the buffers must have, which `make` gives them."""
        if kind in self._kept and self._kept[kind][0] < positions:
            del self._kept[kind]  # before the new ones take memory
        if kind not in self._kept:
            if len(self._kept) == _KEPT:
                self._kept.popitem(last=False)
            self._kept[kind] = (positions, make(), Recorder(self._new_record()))
        self._kept.move_to_end(kind)
        _, buffers, recorder = self._kept[kind]
        return buffers, recorder

    def clear(self) -> None:
        self._kept.clear()


def cuda_graphs() -> Record:
    """Records steps as CUDA graphs. They share memory for intermediate results, because a step reads nothing of the
    previous one except the buffers, which are allocated outside. Graphs that live longer than others need a pool of
    their own: torch frees a pool with the last graph in it, and refuses to record into a freed one."""
    pool = torch.cuda.graph_pool_handle()

    def record(step: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            step()
        return graph.replay

    return record
