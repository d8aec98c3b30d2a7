"""The most memory that this process has held, and giving back what it no longer needs."""

from __future__ import annotations

import ctypes
import functools
import sys
from pathlib import Path
from typing import Any

import torch


def peak_bytes(device: torch.device) -> float:
    """On a GPU what torch had allocated, else the resident set of the process; NaN on a system that does not say."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    if (peak := _of_this_program("VmHWM")) is not None:
        return peak
    try:
        import resource
    except ImportError:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def resident_bytes() -> float:
    """Bytes of main memory that the process holds now; its peak on a system that does not report that."""
    resident = _of_this_program("VmRSS")
    return peak_bytes(torch.device("cpu")) if resident is None else resident


def _of_this_program(field: str) -> float | None:
    """Linux' own account: the peak of `getrusage` includes the program that started this one."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)


def give_back(device: torch.device) -> None:
    """Return freed memory of the CPU to the system. glibc keeps it in pieces, which the next phase of a step, with
    tensors of other sizes, cannot use. Does nothing on other systems."""
    if device.type == "cpu" and (trim := _of_libc("malloc_trim")) is not None:
        trim(0)


def map_blocks_apart(device: torch.device) -> None:
    """From now on let the CPU's larger blocks go back to the system when they are freed. Blocks that are gathered and
    freed all the time leave holes in glibc's heap otherwise: with sharded weights half as much again as what is held.
    Allocating takes longer."""
    if device.type == "cpu" and (mallopt := _of_libc("mallopt")) is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 20)


_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD in malloc.h


@functools.cache
def _of_libc(name: str) -> Any:
    """A function of glibc; None on other systems."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):
        return None
