"""Temperature and noise: at test time over a grid, and in training for runs that differ in them (Figure 5)."""

from __future__ import annotations

import json
from typing import Any

from softtokens.config.thought import SETTINGS
from softtokens.report import paper
from softtokens.report.arms import Arm, recipe
from softtokens.report.blocks import Block, Figure, Panel, Series, missing, plain
from softtokens.report.estimates import Results
from softtokens.report.readers import number, table
from softtokens.report.sources import Model

_SYMBOLS = {"temperature": "τ", "gamma": "γ"}
_AXES = {"temperature": "temperature", "tau": "temperature of the mixture τ", "gamma": "noise γ"}
_CODES = (("hard-greedy", "hard"), ("hard-sample", "hard"), ("fuzzy-sample", "fuzzy"), ("soft-sample", "soft"))


def blocks(results: Results) -> list[Block]:
    drawn = [figure for task in results.tasks for figure in (_at_test(results, task), _in_training(results, task))]
    return [figure for figure in drawn if figure is not None] or [
        missing(
            "other temperatures or noises need an evaluation with a grid (--temperatures, --taus, --gammas) or models "
            "whose training differs in τ or γ alone."
        )
    ]


def _at_test(results: Results, task: str) -> Figure | None:
    """Cells that differ only in temperature, or only in noise."""
    grids: dict[tuple[str, str, str], dict[float, str]] = {}
    for name in results.names(task):
        setting, values = _values(results, task, name)
        for knob, other in (("temperature", "gamma"), ("gamma", "temperature")):
            value = values[knob]
            if value is not None:
                fixed = "" if values[other] is None else f"{_SYMBOLS[other]} {plain(values[other])}"
                grids.setdefault((setting, knob, fixed), {})[value] = name
    panels = []
    for (setting, knob, fixed), grid in grids.items():
        for k in _first_and_last(results, task, list(grid.values())) if len(grid) > 1 else ():
            series = [s for s in (_line(results, arm, task, grid, k) for arm in results.arms_of(task)) if s is not None]
            if series:
                title = ", ".join(part for part in (setting, fixed, f"pass@{k}") if part)
                panels.append(Panel(title, _AXES[knob], "problems solved, %", series, x_log=min(grid) > 0, share=True))
    if not panels:
        return None
    caption = (
        "The same models at other values while being tested, so that each can be compared at its best; the paper's "
        "value is among the points where it was measured. Band: 95 % over problems. Choosing the best of several "
        "points on the same problems flatters it."
    )
    return Figure(f"grid-{task}", f"Temperature and noise at test time: {task}", caption, panels)


def _values(results: Results, task: str, name: str) -> tuple[str, dict[str, float | None]]:
    """A cell's setting, temperature and noise. Greedy and hard settings have no noise to vary."""
    cell = next(
        cell for (_, where, cell_name), cell in results.sources.cells.items() if (where, cell_name) == (task, name)
    )
    values = {knob: number(cell.summary.get(knob)) for knob in _SYMBOLS}
    setting = SETTINGS.get(cell.setting)
    return cell.setting, values | ({} if setting is not None and "gammas" in setting.grids else {"gamma": None})


def _in_training(results: Results, task: str) -> Figure | None:
    """Arms whose recipes differ only in tau, or only in gamma."""
    panels = []
    for knob in ("gamma", "tau"):
        groups: dict[str, list[tuple[float, Arm[Model]]]] = {}
        for arm in results.arms_of(task):
            run = arm.members[0].run
            value = None if run is None or arm.mode == "hard" else getattr(run, knob)
            if run is not None and value is not None:
                groups.setdefault(_without(run.config, knob), []).append((value, arm))
        for group in groups.values():
            if len({value for value, _ in group}) > 1:
                panels += _trained_at(results, task, knob, sorted(group, key=lambda pair: pair[0]))
    caption = (
        "Models trained alike but for this value; lines: how they think while being tested. Band: 95 % over problems."
    )
    return Figure(f"trained-{task}", f"Temperature and noise in training: {task}", caption, panels) if panels else None


def _trained_at(results: Results, task: str, knob: str, group: list[tuple[float, Arm[Model]]]) -> list[Panel]:
    series = []
    for dash, (name, mode) in enumerate(_CODES):
        points = [(value, results.estimate(arm, task, name, 1)) for value, arm in group]
        points = [(value, estimate) for value, estimate in points if estimate is not None]
        if points:
            x, estimates = [value for value, _ in points], [estimate for _, estimate in points]
            low, high = [e.low for e in estimates], [e.high for e in estimates]
            series.append(Series(f"tested {name}", mode, x, [e.value for e in estimates], low, high, dash=dash % 2))
        theirs = paper.ablation(group[0][1].members[0], task, knob, name)
        if theirs:
            x, y = [value for value, _, _ in theirs], [mean for _, mean, _ in theirs]
            low, high = [mean - std for _, mean, std in theirs], [mean + std for _, mean, std in theirs]
            series.append(Series(f"paper, tested {name}", mode, x, y, low, high, dash=2))
    title = f"{group[0][1].mode} training"
    return [Panel(title, _AXES[knob], "solved at once, %", series, x_log=group[0][0] > 0, share=True)] if series else []


def _line(results: Results, arm: Arm[Model], task: str, grid: dict[float, str], k: int) -> Series | None:
    points = [(value, results.estimate(arm, task, grid[value], k)) for value in sorted(grid)]
    points = [(value, estimate) for value, estimate in points if estimate is not None]
    if not points:
        return None
    x, estimates = [value for value, _ in points], [estimate for _, estimate in points]
    low, high = [e.low for e in estimates], [e.high for e in estimates]
    return Series(arm.label, arm.mode, x, [e.value for e in estimates], low, high, dash=arm.dash)


def _first_and_last(results: Results, task: str, names: list[str]) -> list[int]:
    common = set.intersection(*(set(results.ks(task, name)) for name in names))
    return sorted({min(common), max(common)}) if common else []


def _without(config: dict[str, Any], knob: str) -> str:
    thought = {k: v for k, v in table(config.get("thought")).items() if k != knob}
    return recipe({**config, "thought": json.dumps(thought, sort_keys=True)})
