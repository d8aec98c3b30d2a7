"""The measurement as a table, as a sentence per setting, and as JSON."""

from __future__ import annotations

import dataclasses
import math

from rich.table import Table

from softtokens.config.thought import ThoughtConfig
from softtokens.signal.estimate import Estimate, student
from softtokens.signal.measure import Measured, Signal

SCHEMA = 1
FILE = "signal.json"


def signal_table(signal: Signal) -> Table:
    """Three rows per setting, one per term, with statistics of its rollouts."""
    c = signal.config
    kept = "" if signal.sketch is None else f", sketched in {signal.sketch:,} numbers"
    table = Table(
        title=f"{c.batches} batches of {c.problems_per_step} x {c.group_size} rollouts",
        caption=f"gradients of {signal.parameters:,} parameters{kept}; spread: groups whose rewards differ",
        header_style="bold",
    )
    for column in ("setting", "rollouts", "term", "norm", "cosine", "noise scale"):
        table.add_column(column, justify="left" if column in ("setting", "term") else "right")
    for one in signal.settings:
        mode, *options = _parts(one.thought)
        parts = [mode, *options[:1], ", ".join(options[1:]), ""]
        about = [f"reward {one.reward:.1f}", f"solved {_percent(one.solved)}", f"spread {_percent(one.spread)}"]
        for part, rollouts, (term, e) in zip(parts, about, one.terms.items(), strict=False):
            cosine = f"{e.cosine:+.3f} ±{e.cosine_error:.3f}"
            table.add_row(part, rollouts, term, f"{e.norm:.2g}", cosine, _scale(e), end_section=term == "sum")
    return table


def sentence(signal: Signal, one: Measured) -> str:
    """The result for the setting's sum, in words.

    Noise averages out over the updates of a run as it does within one, so the noise scale is compared with the rollouts
    of a step and of the whole run.
    """
    e, drawn = one.terms["sum"], signal.rows * signal.config.batches
    steps = signal.config.steps
    has = f"a step has {signal.rows:,}, a run of {steps:,} steps {steps * signal.rows:,}."
    if not one.spread:
        return f"no gradient: none of {drawn // signal.config.group_size} groups has rewards that differ."
    if e.noise_scale is not None:
        assert e.low is not None and e.high is not None, e
        return (
            f"signal equals noise at about {rounded(e.noise_scale)} rollouts "
            f"(95 %: {rounded(e.low)} to {rounded(e.high)}); {has}"
        )
    if e.is_zero:
        return f"no gradient: it is 0 in all {drawn:,} rollouts."
    if e.low is None:
        return f"no signal was measurable with {drawn:,} rollouts: too few of the batches have a gradient."
    if e.cosine > student(signal.config.batches - 1) * e.cosine_error:
        return (
            f"there is signal (cosine {e.cosine:+.3f} ±{e.cosine_error:.3f}), but a few long gradients hide how much: "
            f"it equals noise at more than {rounded(e.low)} rollouts; {has}"
        )
    return f"no signal was measurable with {drawn:,} rollouts: it equals noise at more than {rounded(e.low)}; {has}"


def name_of(thought: ThoughtConfig) -> str:
    return ", ".join(_parts(thought))


def _parts(thought: ThoughtConfig) -> list[str]:
    """The mode, tau where it is not 1 or is the mixture's, and the family's own options."""
    tau = [f"tau {thought.temperature:g}"] if thought.family.has_gamma or thought.tau is not None else []
    options = [f"{name.replace('_', ' ')} {getattr(thought, name):g}" for name in thought.family.options]
    return [thought.mode, *tau, *options]


def _scale(e: Estimate) -> str:
    if e.noise_scale is not None:
        return rounded(e.noise_scale)
    if e.low is None:
        return "no gradient" if e.is_zero else "unknown"
    return f"> {rounded(e.low)}"


def rounded(count: float) -> str:
    """Rounded to two digits, because more are never known."""
    digits = 0 if count < 1 else 1 - math.floor(math.log10(count))
    return f"{round(count, min(digits, 0)):,.0f}"


def as_json(signal: Signal) -> dict:
    """The content of signal.json; noise scales in rollouts."""
    c = signal.config
    return {
        "schema": SCHEMA,
        "model": c.start or c.model,
        "task": c.task.name,
        "seed": c.seed,
        "batches": c.batches,
        "problems_per_step": c.problems_per_step,
        "group_size": c.group_size,
        "thought_weight": c.thought_weight,
        "answer_weight": c.answer_weight,
        "parameters": signal.parameters,
        "sketch": signal.sketch,
        "settings": [
            dataclasses.asdict(one)
            | {
                "name": name_of(one.thought),
                "tau": one.thought.temperature,
                "sentence": f"{name_of(one.thought)}: {sentence(signal, one)}",
            }
            for one in signal.settings
        ],
    }


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
