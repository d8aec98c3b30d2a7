"""The most memory that this process has held."""

from __future__ import annotations

import sys

import torch


def peak_bytes(device: torch.device) -> float:
    """On a GPU what torch had allocated, else the resident set of the process; NaN on a system that does not say."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
