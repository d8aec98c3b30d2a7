"""Entropy along the thoughts (Figure 4 of the paper), and whether soft thoughts are soft at all."""

from __future__ import annotations

from typing import Any

from softtokens.config.thought import AS_TRAINED, NAMED_CELLS, SETTINGS
from softtokens.report.arms import Arm
from softtokens.report.blocks import Block, Entry, Figure, Panel, Series, Table, missing, percent, plain
from softtokens.report.estimates import Results
from softtokens.report.readers import number, numbers, table
from softtokens.report.sources import Cell, Model

_STILL_RUNNING = 0.05  # a step is shown if at least this share of the generations reaches it
METERS = {  # key of a profile -> column, whether it is a share
    "effective_support": ("effective support", False),
    "max_weight": ("largest weight", False),
    "share_above_0.99": ("steps above 0.99, %", True),
    "distance_to_token": ("distance to a token", False),
    "noise_ratio": ("noise to embedding", False),
}


def blocks(results: Results) -> list[Block]:
    figures: list[Block] = []
    for task in results.tasks:
        figures += [b for b in (_entropy(results, task), _meter(results, task), _along(results, task)) if b is not None]
    return figures or [
        missing("no cell of an evaluation has a profile of its thought steps (evaluate with --profile).")
    ]


def _profiles(results: Results, task: str, name: str) -> list[tuple[Arm[Model], Cell, dict[str, Any]]]:
    """For each arm, the cell of its first member that has a profile, and the profile."""
    profiles = []
    for arm in results.arms_of(task):
        pairs = [(cell, table(cell.profile)) for cell in results.cells(arm, task, name)]
        profiles += [(arm, cell, profile) for cell, profile in pairs if numbers(profile.get("steps"))][:1]
    return profiles


def _entropy(results: Results, task: str) -> Figure | None:
    panels = []
    temperatures = set()
    for name in [n for n in results.names(task) if n in NAMED_CELLS]:
        series = []
        for arm, _, profile in _profiles(results, task, name):
            temperatures.add(plain(number(profile.get("entropy_temperature"))))
            line = _steps(arm, profile, "entropy", "entropy_low", "entropy_high")
            series += [line] if line else []
        if series:
            panels.append(Panel(name, "thought step", "entropy, nats", series, y_zero=True))
    if not panels:
        return None
    caption = (
        f"Entropy of the next-token distribution at temperature {' or '.join(sorted(temperatures))}, mean over the "
        "generations that are still thinking at that step (shown while 5 % of them are); band: its quartiles over "
        "generations. The generations that last are the long ones, so the end of a curve speaks of other problems than "
        "its start. Of several seeds the first is shown."
    )
    return Figure(f"entropy-{task}", f"Entropy along the thoughts: {task}", caption, panels, same_y=True)


def _along(results: Results, task: str) -> Figure | None:
    """The other measures by thought step, in the first sampled setting with mixtures that has them."""
    mixing = {name: setting for name, setting in SETTINGS.items() if setting.thought.mode != "hard"}
    sampled = [name for name, setting in mixing.items() if not setting.is_greedy]
    for name in (*sampled, AS_TRAINED, *(name for name in mixing if name not in sampled)):
        profiles = _profiles(results, task, name)
        panels = []
        for key, (label, is_share) in METERS.items():
            series = [s for s in (_steps(arm, profile, key) for arm, _, profile in profiles) if s is not None]
            if series:
                panels.append(Panel(label, "thought step", label, series, share=is_share))
        if panels:
            caption = f"The columns of the table above along the thoughts, in {name}."
            return Figure(f"softness-{task}", f"Mixtures along the thoughts: {task}, {name}", caption, panels)
    return None


def _meter(results: Results, task: str) -> Table | None:
    rows = []
    for name in [n for n in results.names(task) if n in NAMED_CELLS]:
        for arm, cell, profile in _profiles(results, task, name):
            means = {key: _mean(profile, key) for key in METERS}
            if cell.mode != "hard" and any(mean is not None for mean in means.values()):
                shown = [Entry(_meant(means[key], is_share), means[key]) for key, (_, is_share) in METERS.items()]
                rows.append([Entry(arm.label, below=name, mode=arm.mode), *shown])
    if not rows:
        return None
    caption = (
        "Means over thought steps, in the settings that feed mixtures. Effective support: 1 / Σ p², how many tokens a "
        "mixture holds. Steps above 0.99: those where one token has nearly all the weight, so the thought is a token "
        "plus noise. Distance: from the fed vector to the nearest token's embedding, in units of the embeddings' "
        "root-mean-square length. Noise: its norm over that of the mixture. Mixtures at the temperature of the setting."
    )
    columns = ["trained, setting", *(label for label, _ in METERS.values())]
    return Table(f"meter-{task}", f"Is it soft? {task}", caption, columns, rows, compact=True)


def _meant(mean: float | None, is_share: bool) -> str:
    return percent(mean) if is_share else plain(mean)


def _steps(arm: Arm[Model], profile: dict[str, Any], key: str, low: str = "", high: str = "") -> Series | None:
    steps, values, running = (numbers(profile.get(name)) for name in ("steps", key, "running"))
    if not steps or len(values) != len(steps) or all(value is None for value in values):
        return None
    enough = _STILL_RUNNING * max((r for r in running if r is not None), default=0)
    known = [(i, step) for i, step in enumerate(steps) if step is not None]
    keep = {i: step for i, step in known if i >= len(running) or (running[i] or 0) >= enough}
    bounds = [numbers(profile.get(name)) for name in (low, high)]
    lows, highs = ([b[i] for i in keep] if len(b) == len(steps) else None for b in bounds)
    return Series(arm.label, arm.mode, list(keep.values()), [values[i] for i in keep], lows, highs, dash=arm.dash)


def _mean(profile: dict[str, Any], key: str) -> float | None:
    """Mean over steps, each weighted by the generations that took it."""
    values, running = numbers(profile.get(key)), numbers(profile.get("running"))
    if len(running) != len(values):
        running = [1.0] * len(values)
    both = zip(values, running, strict=True)
    pairs = [(value, weight) for value, weight in both if value is not None and weight is not None]
    total = sum(weight for _, weight in pairs)
    return sum(value * weight for value, weight in pairs) / total if total else None
