"""Memory, bandwidth and arithmetic of devices: from data sheets, or measured here."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

import torch

from softtokens.config.plan import PlanConfig
from softtokens.models.hf import resolve_device
from softtokens.types import UserError


@dataclasses.dataclass(frozen=True)
class Device:
    """memory: bytes. bandwidth: bytes a second, of its memory. flops: of dense matrix products a second, by dtype.
    link: bytes a second to the other devices of its machine, one way."""

    name: str
    kind: str  # cuda or cpu
    memory: float
    bandwidth: float
    flops: dict[str, float]
    link: float


def _gpu(
    name: str, memory_mib: float, bandwidth_gb: float, bf16_tflops: float, f32_tflops: float, link_gb: float
) -> Device:
    flops = {"bfloat16": bf16_tflops * 1e12, "float32": f32_tflops * 1e12}
    return Device(name, "cuda", memory_mib * 2**20, bandwidth_gb * 1e9, flops, link_gb * 1e9)


# From data sheets, with memory as nvidia-smi shows it; float32 without TF32, which is torch's default.
DEVICES = {
    "h200": _gpu("H200", 143_771, 4800, 989, 67, 450),
    "h100": _gpu("H100 80 GB", 81_559, 3350, 989, 67, 450),
    "a100": _gpu("A100 80 GB", 81_920, 2039, 312, 19.5, 300),
    "a100-40": _gpu("A100 40 GB", 40_960, 1555, 312, 19.5, 300),
    "l40s": _gpu("L40S", 46_068, 864, 362, 91.6, 32),
    "rtx4090": _gpu("RTX 4090", 24_564, 1008, 165, 82.6, 32),
}


def device_of(config: PlanConfig) -> Device:
    """The device that a plan is for, with the numbers that the configuration overrides."""
    name = config.on.lower()
    given = (config.memory_gb, config.bandwidth_gb_s, config.tflops)
    if name == "here":
        device = _here(config)
    elif name in DEVICES:
        device = DEVICES[name]
    elif None not in given:
        device = _gpu(config.on, 1, 1, 1, 1, 32)
    else:
        raise UserError(
            f"on is {config.on!r}; it must be here or one of {', '.join(DEVICES)}. For another device give memory_gb, "
            "bandwidth_gb_s and tflops with it"
        )
    given = {"memory": config.memory_gb, "bandwidth": config.bandwidth_gb_s}
    changes: dict[str, Any] = {key: 1e9 * value for key, value in given.items() if value is not None}
    if config.tflops is not None:
        changes["flops"] = {config.scale.dtype: 1e12 * config.tflops}
    return _shared(dataclasses.replace(device, **changes), min(config.processes, config.per_machine))


def _here(config: PlanConfig) -> Device:
    place, dtype = resolve_device(config.device), config.scale.dtype
    if place.type == "cuda":
        memory, name = torch.cuda.get_device_properties(place).total_memory, torch.cuda.get_device_name(place)
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        name = f"this machine's CPU, {torch.get_num_threads()} threads"
    bandwidth = _bandwidth(place)
    flops: dict[str, float] = {dtype: _flops(place, getattr(torch, dtype))}
    return Device(name, place.type, memory, bandwidth, flops, bandwidth / 4)


def _shared(device: Device, processes: int) -> Device:
    """The share that each of several processes has of a machine's CPU."""
    if device.kind != "cpu" or processes == 1:
        return device
    return dataclasses.replace(
        device,
        name=f"{device.name}, shared by {processes} processes",
        memory=device.memory / processes,
        bandwidth=device.bandwidth / processes,
        flops={dtype: flops / processes for dtype, flops in device.flops.items()},
    )


def _bandwidth(place: torch.device) -> float:
    numbers = torch.ones(1 << 26, device=place)  # 268 MB: larger than any cache
    return numbers.nbytes / _fastest(lambda: numbers.sum(), place)


def _flops(place: torch.device, dtype: torch.dtype) -> float:
    side = 8192 if place.type == "cuda" else 1024
    square = torch.randn(side, side, device=place).to(dtype)
    return 2 * side**3 / _fastest(lambda: square @ square, place)


def _fastest(work: Callable[[], object], place: torch.device) -> float:
    """Seconds of the fastest of a few calls."""

    def seconds() -> float:
        started = time.perf_counter()
        work()
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        return time.perf_counter() - started

    return min(seconds() for _ in range(8))
