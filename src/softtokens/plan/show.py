"""A plan as tables, and as JSON."""

from __future__ import annotations

import dataclasses

from rich.table import Table

from softtokens.plan.footprint import PHASES
from softtokens.plan.run import Plan, fits
from softtokens.plan.speed import SHARE_OF_BANDWIDTH, SHARE_OF_FLOPS


def memory_table(plan: Plan) -> Table:
    unit, name = (1e9, "GB") if plan.peak >= 10e9 else (1e6, "MB")

    def shown(size: float) -> str:
        return f"{size / unit:.2f}" if unit == 1e9 else f"{size / unit:,.0f}"

    table = Table(title=f"memory of one process, {name} ({plan.size.parameters / 1e6:,.0f} M parameters)")
    table.add_column("part")
    for phase in PHASES:
        table.add_column(phase, justify="right")
    for part in sorted(plan.memory.parts, key=lambda part: -part.size):
        table.add_row(part.name, *(shown(part.size) if phase in part.phases else "" for phase in PHASES))
    table.add_section()
    of_phases = plan.memory.phases
    table.add_row("together", *(shown(of_phases[phase]) for phase in PHASES), style="bold")
    return table


def time_table(plan: Plan) -> Table:
    table = Table(title="seconds of one step on the roofline")
    for name in ("decode", "update", "optimizer", "network", "together"):
        table.add_column(name, justify="right")
    s = plan.seconds
    table.add_row(*(f"{value:.3g}" for value in (s.decode, s.update, s.optimizer, s.network, s.bound)))
    return table


def verdict(plan: Plan) -> list[str]:
    """The meaning of the tables, in sentences."""
    device, peak = plan.device, plan.peak
    share = f"{peak / 1e9:.2f} GB of the {device.memory / 1e9:.3g} GB of {device.name}, in the {plan.phase} phase"
    lines = [f"Fits: at most {share}." if plan.fits else f"Does not fit: {share}."]
    lines += [f"  with {change.flags}: {change.peak / 1e9:.2f} GB" for change in plan.changes]
    if not plan.fits and not (plan.changes and fits(plan.changes[-1].peak, device)):
        lines.append("  More devices (--processes with fsdp), shorter thoughts or a smaller model are what is left.")
    sizes, positions = plan.memory.batch_sizes, plan.memory.positions
    recomputing = ", activations recomputed" if sizes.recomputes else ""
    lines.append(
        f"{sizes.slots} rollouts run at a time; {positions:,} positions go through a backward pass{recomputing}."
    )
    lines.append(
        f"A step takes at least {plan.seconds.bound:.3g} s; {plan.seconds.expected:.3g} s at "
        f"{SHARE_OF_BANDWIDTH:.0%} of the bandwidth and {SHARE_OF_FLOPS:.0%} of the operations, which a 3B model "
        "reaches on an H100. Rollouts are taken as long as they may get; grading, validation and the network between "
        "machines are not included."
    )
    return lines


def as_json(plan: Plan) -> dict:
    """The plan as JSON, in bytes and seconds."""
    return {
        "model": dataclasses.asdict(plan.size),
        "device": dataclasses.asdict(plan.device),
        "parts": [
            {"name": part.name, "bytes": part.size, "phases": [phase for phase in PHASES if phase in part.phases]}
            for part in plan.memory.parts
        ],
        "rollouts_at_a_time": plan.memory.batch_sizes.slots,
        "positions_per_backward": plan.memory.positions,
        "recomputes_activations": plan.memory.batch_sizes.recomputes,
        "phases": plan.memory.phases,
        "peak": plan.peak,
        "peak_phase": plan.phase,
        "fits": plan.fits,
        "changes": [dataclasses.asdict(change) for change in plan.changes],
        "seconds": dataclasses.asdict(plan.seconds)
        | {"together": plan.seconds.bound, "expected": plan.seconds.expected},
    }
