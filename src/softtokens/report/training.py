"""Training: what was trained, reward and validation curves (Figure 2 of the paper), and what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

from softtokens.report.arms import Arm
from softtokens.report.blocks import Block, Entry, Figure, Panel, Series, Table, duration, missing, percent, plain
from softtokens.report.readers import number, table, text
from softtokens.report.sanitize import shown
from softtokens.report.sources import Run

_WINDOWS = 20  # smoothed curves are running means over a 20th of the run


def what_was_trained(arms: Sequence[Arm[Run]]) -> Table:
    rows = []
    for arm in arms:
        run = arm.members[0]
        config, thought = run.config, table(run.config.get("thought"))
        learnt = [mean_of_ends(member, "reward") for member in arm.members]
        best = [max(values) for values in (m.column("validation/accuracy")[1] for m in arm.members) if values]
        steps = [number(m.metrics[-1].get("step")) if m.metrics else 0 for m in arm.members]
        goal = number(config.get("steps"))
        unfinished = goal is not None and any((s or 0) < goal for s in steps)
        done = " to ".join(plain(s, 6) for s in sorted({min(s or 0 for s in steps), max(s or 0 for s in steps)}))
        noise = "" if run.gamma is None else f"τ {plain(run.tau)}, γ {plain(run.gamma)}"
        placed = text(thought.get("noise"), "input")
        rows.append(
            [
                Entry(arm.label, mode=arm.mode, below=_members(arm)),
                Entry(short_name(run.model), below=short_name(run.task), hint=run.model),
                Entry(f"{done} of {plain(goal, 6)}" if unfinished else done, below="unfinished" if unfinished else ""),
                Entry(_batch(config)),
                Entry(plain(number(config.get("learning_rate"))), below=_weights(config)),
                Entry(noise or "–", below="" if placed == "input" or not noise else f"noise on {placed}"),
                Entry(_arrow([a for a, _ in learnt], [b for _, b in learnt])),
                Entry(percent(sum(best) / len(best)) if best else "–", below="" if best else "not measured"),
            ]
        )
    columns = ["mode", "model, task", "updates", "rollouts", "rate", "thoughts", "reward", "validation %"]
    caption = (
        "One row per way of training; seeds of the same configuration are together. Rollouts: problems × group of one "
        "update. Reward: mean over the first and the last tenth of the updates. Validation: the best greedy accuracy "
        "in the mode's own setting, mean over seeds."
    )
    return Table("trained", "What was trained", caption, columns, rows)


def curves(arms: Sequence[Arm[Run]]) -> list[Block]:
    """Figure 2: reward and validation over updates, one pair of panels per model and task."""
    panels = []
    places = list(dict.fromkeys((arm.members[0].model, arm.members[0].task) for arm in arms))
    for model, task in places:
        here = [arm for arm in arms if (arm.members[0].model, arm.members[0].task) == (model, task)]
        suffix = f": {short_name(model)}, {short_name(task)}" if len(places) > 1 else ""
        reward = [series for arm in here for series in curve(arm, "reward")]
        validation = [s for arm in here for s in curve(arm, "validation/accuracy", smooth=False)]
        if reward:
            panels.append(Panel(f"Reward in training{suffix}", "update", "mean reward", reward))
        if validation:
            panels.append(Panel(f"Validation{suffix}", "update", "problems solved, %", validation, share=True))
    if not panels:
        return [missing("no run has a finished update with a reward.")]
    window = max((_window(run) for arm in arms for run in arm.members), default=1)
    seeds = any(len(arm.members) > 1 for arm in arms)
    caption = (
        f"Reward is that of sampled rollouts, in the mode that is trained; a running mean over {window} updates, with "
        "the updates themselves behind it. Validation is greedy, without noise. "
        + (
            "Line: the mean over seeds as far as all have got; band: their range. "
            if seeds
            else "One seed each, so there is no band: another seed may differ. "
        )
        + "Rewards of different modes are not comparable as solving power: sampling is noisier in some than in others."
    )
    return [Figure("training-curves", "Reward and validation while training", caption, panels)]


def curve(arm: Arm[Run], key: str, *, smooth: bool = True) -> list[Series]:
    """The mean over an arm's seeds with the range as a band; for one seed the curve and, behind it, its raw values."""
    curves = [(run, *run.column(key)) for run in arm.members]
    curves = [(run, x, y) for run, x, y in curves if x]
    if not curves:
        return []
    if len(curves) == 1:
        run, x, y = curves[0]
        window = _window(run) if smooth else 1
        raw = [Series(arm.label, arm.mode, x, y, faint=True)] if window > 1 else []
        return [*raw, Series(arm.label, arm.mode, x, running_mean(y, window), dash=arm.dash)]
    by_step: dict[float, list[float]] = {}
    for run, x, y in curves:
        for step, value in zip(x, running_mean(y, _window(run) if smooth else 1), strict=True):
            by_step.setdefault(step, []).append(value)
    steps = sorted(step for step, values in by_step.items() if len(values) == len(curves))
    mean = [sum(by_step[s]) / len(curves) for s in steps]
    low, high = [min(by_step[s]) for s in steps], [max(by_step[s]) for s in steps]
    return [Series(f"{arm.label} ({len(curves)} seeds)", arm.mode, steps, mean, low, high, dash=arm.dash)]


def cost(arms: Sequence[Arm[Run]]) -> Table:
    rows = []
    for arm in arms:
        for run in arm.members:
            phases = [run.total(f"time/{phase}") for phase in ("rollout", "grade", "update")]
            seconds, tokens = run.total("time/step"), run.total("num_tokens")
            updates = len(run.column("time/step")[1])
            speed = tokens / phases[0] if tokens and phases[0] else None
            memory = peak_memory(run)
            rows.append(
                [
                    Entry(run.name, mode=arm.mode),
                    Entry(duration(seconds), below=" + ".join(duration(p) for p in phases)),
                    Entry(f"{seconds / updates:.2f} s" if seconds and updates else "–"),
                    Entry("–" if tokens is None else f"{tokens:,.0f}"),
                    Entry("–" if speed is None else f"{speed:,.0f}"),
                    Entry("not recorded" if memory is None else f"{memory / 2**30:.2f} GiB"),
                ]
            )
    columns = ["run", "time in updates", "per update", "tokens", "tokens/s", "peak memory"]
    caption = (
        "Wall-clock time of the updates, below it rollout + grading + update; validation and saving come on top. "
        "Tokens: thoughts and answers sampled; tokens/s while sampling."
    )
    return Table("cost", "What it cost", caption, columns, rows, compact=len(rows) > 4)


def peak_memory(run: Run) -> float | None:
    """Peak memory in bytes, from whichever memory metric a run logged."""
    keys = {key for row in run.metrics[-1:] for key in row if "memory" in key}
    values = [value for key in keys for value in run.column(key)[1]]
    return max(values) if values else None


def mean_of_ends(run: Run, key: str) -> tuple[float | None, float | None]:
    """Means over the first and the last tenth of a run."""
    values = run.column(key)[1]
    n = max(1, len(values) // 10)
    return (sum(values[:n]) / n, sum(values[-n:]) / n) if values else (None, None)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last `window` values up to each; fewer at the start."""
    means, total = [], 0.0
    for i, value in enumerate(values):
        total += value - (values[i - window] if i >= window else 0.0)
        means.append(total / min(i + 1, window))
    return means


def short_name(name: str) -> str:
    """The last part of a path or hub name, short enough for a table."""
    return shown(name.rstrip("/").rsplit("/", 1)[-1] or name, 48)


def _window(run: Run) -> int:
    return max(1, math.ceil(len(run.metrics) / _WINDOWS))


def _members(arm: Arm[Run]) -> str:
    if len(arm.members) == 1:
        return f"seed {arm.members[0].seed}"
    return f"{len(arm.members)} seeds: {', '.join(run.seed for run in arm.members)}"


def _batch(config: dict) -> str:
    problems, group = number(config.get("problems_per_step")), number(config.get("group_size"))
    return f"{plain(problems)} × {plain(group)}"


def _weights(config: dict) -> str:
    weight = number(config.get("thought_weight"))
    return "" if weight is None or weight == 1 else f"thought weight {plain(weight)}"


def _arrow(first: list[float | None], last: list[float | None]) -> str:
    known = [(a, b) for a, b in zip(first, last, strict=True) if a is not None and b is not None]
    if not known:
        return "–"
    return f"{sum(a for a, _ in known) / len(known):.1f} → {sum(b for _, b in known) / len(known):.1f}"
