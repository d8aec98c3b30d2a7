"""pass@k and maj@k by training mode and inference setting (Figure 3 of the paper)."""

from __future__ import annotations

from softtokens.config.thought import NAMED_CELLS, SETTINGS
from softtokens.report.arms import Arm
from softtokens.report.blocks import Block, Figure, Panel, Series, missing
from softtokens.report.estimates import Difference, Results
from softtokens.report.sources import Model

SAMPLED = tuple(name for name in NAMED_CELLS if name not in SETTINGS or not SETTINGS[name].is_greedy)


def figures(results: Results) -> list[Block]:
    drawn: list[Block] = [figure for task in results.tasks for figure in _of_task(results, task)]
    return drawn or [missing("pass@k for several k needs a sampled setting with at least two samples a problem.")]


def _of_task(results: Results, task: str) -> list[Figure]:
    names = [name for name in SAMPLED if len(results.ks(task, name)) > 1]
    if not names:
        return []
    solved = _figure(
        results,
        task,
        names,
        "pass@k",
        f"pass@k on {task}",
        "The share of problems that at least one of k samples solves, without bias from n ≥ k samples of each; one "
        "panel "
        "per way of thinking while being tested, one line per way of training. Band: 95 % over problems.",
    )
    voted = _figure(
        results,
        task,
        names,
        "maj@k",
        f"maj@k on {task}",
        "The share of problems that a vote of k samples solves. Band: 95 % over problems.",
    )
    return [figure for figure in (solved, _against_base(results, task, names), voted) if figure is not None]


def _figure(results: Results, task: str, names: list[str], measure: str, title: str, caption: str) -> Figure | None:
    panels = []
    for name in names:
        ks = results.ks(task, name, measure)
        series = [_line(results, arm, task, name, ks, measure) for arm in results.arms_of(task)]
        series = [s for s in series if s is not None]
        if series and len(ks) > 1:
            panels.append(Panel(name, "k", "problems solved, %", series, x_log=True, share=True))
    return Figure(f"{measure.replace('@', '-at-')}-{task}", title, caption, panels, same_y=True) if panels else None


def _line(results: Results, arm: Arm[Model], task: str, name: str, ks: list[int], measure: str) -> Series | None:
    points = [(k, results.estimate(arm, task, name, k, measure)) for k in ks]
    points = [(k, estimate) for k, estimate in points if estimate is not None]
    if not points:
        return None
    x, estimates = [k for k, _ in points], [estimate for _, estimate in points]
    low, high = [e.low for e in estimates], [e.high for e in estimates]
    return Series(arm.label, arm.mode, x, [e.value for e in estimates], low, high, dash=arm.dash)


def _against_base(results: Results, task: str, names: list[str]) -> Figure | None:
    """Up to which k a trained model leads its base: the question that pass@k curves answer."""
    bases = [arm for arm in results.arms_of(task) if arm.mode == "base"]
    if not bases:
        return None
    panels = []
    for name in names:
        ks = results.ks(task, name)
        series = []
        for arm in results.arms_of(task):
            points = [(k, results.difference(arm, bases[0], task, name, k)) for k in ks if arm.mode != "base"]
            series += _change(arm, [(k, d) for k, d in points if d is not None])
        if series:
            panels.append(Panel(name, "k", "points above base", series, x_log=True, share=True, line_at=0.0))
    caption = (
        "The same, as the paired difference to the base model on the same problems. Above the dotted line training has "
        "added something at that k; below it, training has taken away what more samples of the base would have found. "
        "Band: 95 % over problems, for each k by itself."
    )
    return (
        Figure(f"against-base-{task}", f"pass@k above base on {task}", caption, panels, same_y=True) if panels else None
    )


def _change(arm: Arm[Model], points: list[tuple[int, Difference]]) -> list[Series]:
    if not points:
        return []
    x, changes = [k for k, _ in points], [d for _, d in points]
    low, high = [d.low for d in changes], [d.high for d in changes]
    return [Series(arm.label, arm.mode, x, [d.mean for d in changes], low, high, dash=arm.dash)]
