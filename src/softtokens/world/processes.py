"""The processes of a run: how they share work, gather results and agree. One process is a world of its own."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from softtokens.models.hf import resolve_device
from softtokens.types import OtherProcessFailed, UserError, first_line
from softtokens.world.launch import Launch
from softtokens.world.peers import Peers

T = TypeVar("T")
_PATIENCE = datetime.timedelta(minutes=30)  # how long to wait for the slowest process before the run fails


class World:
    """The processes of a run. All processes must call every method but `share` at the same point of the program;
    otherwise they wait forever."""

    def __init__(self, launch: Launch, device: torch.device):
        self.launch = launch
        self.device = device

    @property
    def rank(self) -> int:
        return self.launch.rank

    @property
    def size(self) -> int:
        return self.launch.size

    @property
    def is_main(self) -> bool:
        return self.launch.is_main

    def share(self, count: int) -> range:
        """This process's part of `count` things: contiguous, and of the same size as the others' parts, give or take
        one."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def gather(self, value: T) -> list[T]:
        """The value of every process, in the order of ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Make each tensor the sum of those of all processes; the same bits everywhere."""
        if self.size > 1:
            for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                work.wait()

    def broadcast_(self, tensor: Tensor) -> None:
        """Set the tensor to its values in the main process."""
        if self.size > 1:
            dist.broadcast(tensor, 0)

    def together(self, act: Callable[[], T]) -> T:
        """Run `act`, which must not communicate. If it fails in any process, all processes fail: that process with
        the error, the others with `OtherProcessFailed`."""
        try:
            result = act()
        except Exception:
            self.gather(True)
            raise
        failed = self.gather(False)
        if any(failed):
            raise OtherProcessFailed(f"process {failed.index(True)} failed")
        return result

    def from_main(self, make: Callable[[], T]) -> T:
        """The result of `make`, which only the main process runs."""
        made = self.together(lambda: make() if self.is_main else None)
        given = self.gather(made)[0]
        return cast(T, given)  # the main process is first

    def mesh(self, *, hybrid: bool) -> DeviceMesh:
        """All processes in a line; hybrid: [machines, processes of a machine]."""
        kind, local = self.device.type, self.launch.local_size
        if not hybrid:
            return init_device_mesh(kind, (self.size,))
        if self.size % local:
            raise UserError(
                f"parallel is hsdp with {self.size} processes, {local} on this machine; it needs the same number on "
                "every machine. Use fsdp."
            )
        return init_device_mesh(kind, (self.size // local, local), mesh_dim_names=("replicate", "shard"))


def alone(device: torch.device) -> World:
    """The world of a single process."""
    return World(Launch(), device)


def device_of(device: str, launch: Launch) -> str:
    """The device of this process by name: of several processes on a machine with GPUs each takes its own. device: as in
    the configuration. UserError when there are fewer GPUs than processes."""
    if launch.size == 1:
        return device
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device is {device!r} with {launch.size} processes; each takes its own: use auto, cpu or cuda")
    here = resolve_device(device)
    if here.type != "cuda":
        return here.type
    if launch.local_rank >= torch.cuda.device_count():
        raise UserError(
            f"there are {launch.local_size} processes and {torch.cuda.device_count()} GPUs on this machine; start one "
            "process per GPU"
        )
    return f"cuda:{launch.local_rank}"


@contextlib.contextmanager
def join(launch: Launch, device: str) -> Iterator[World]:
    """The world of this process, which meets the others first. device: as in the configuration; of several processes
    on a machine with GPUs each takes its own. UserError where they have no address to meet at, RuntimeError when one of
    them is lost on the way."""
    if launch.size == 1:
        yield World(launch, resolve_device(device))
        return
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise UserError(
                f"{name} is not set, so the {launch.size} processes cannot meet; start with torchrun, set MASTER_ADDR "
                "and MASTER_PORT, or unset RANK and WORLD_SIZE"
            )
    here = torch.device(device_of(device, launch))
    if here.type == "cuda":
        torch.cuda.set_device(here)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if here.type == "cuda" else "gloo",
        rank=launch.rank,
        world_size=launch.size,
        timeout=_PATIENCE,
    )
    peers = Peers(launch.rank)
    try:
        yield World(launch, here)
    except BaseException as error:
        with contextlib.suppress(RuntimeError):  # the store may be gone
            peers.tell(error)
        lost = isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or "gloo" in str(error))
        if lost:  # gloo raises a plain RuntimeError
            raise RuntimeError(
                "lost another process of the run; its last log lines say why. Restart all processes with the "
                f"same command and --resume. ({first_line(error)})"
            ) from error
        raise
    peers.close()
    dist.destroy_process_group()  # not after a failure, when other processes may be anywhere
