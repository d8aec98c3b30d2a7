"""Diagnostics of training runs, and of the samples of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from softtokens.endings import EOS, LIMIT
from softtokens.report.arms import Arm
from softtokens.report.blocks import Block, Entry, Figure, Panel, Series, Table, duration, missing, percent, plain
from softtokens.report.checks import THRESHOLDS
from softtokens.report.estimates import Results
from softtokens.report.readers import number, table
from softtokens.report.sanitize import shown
from softtokens.report.sources import Cell, Run
from softtokens.report.training import curve
from softtokens.types import Verdict

_VERDICTS = tuple(verdict.value for verdict in Verdict)


def of_training(arms: Sequence[Arm[Run]]) -> list[Block]:
    figures = [
        _gradients(arms),
        _figure(
            arms,
            "signal-while-training",
            "Agreement of the halves of a batch",
            "Cosine between the gradients of the two halves of a batch, where it was measured: 1 is all signal, 0 all "
            "noise. Single values are noisy; their mean says more.",
            [("signal/cosine", "Agreement", "cosine", False)],
        ),
        _figure(
            arms,
            "thoughts-while-training",
            "Thoughts while training",
            "Entropy of the next-token distribution at temperature 1, whatever the mode; the other three at the mode's "
            "own temperature. Near-tie share: steps whose largest weight is below 0.99, where alone the thought term "
            "of fuzzy mode has a gradient. Effective support: 1 / Σ p², how many tokens are mixed.",
            [
                ("entropy", "Entropy", "nats per step", False),
                ("thought/near_tie_share", "Near-tie share", "steps, %", True),
                ("thought/effective_support", "Effective support", "tokens", False),
                ("thought/max_weight", "Largest weight", "weight, %", True),
            ],
        ),
        _figure(
            arms,
            "spread",
            "Rewards within a problem, and lengths",
            "Where all rollouts of a problem get the same reward, they teach nothing. Lengths are means over rollouts.",
            [
                ("frac_reward_zero_std", "Problems without spread in reward", "problems, %", True),
                ("reward_std", "Spread of rewards", "standard deviation", False),
                ("completions/thought_length", "Thoughts", "steps", False),
                ("completions/answer_length", "Answers", "tokens", False),
            ],
        ),
        _mismatch(arms),
        _figure(
            arms,
            "stops-and-verdicts",
            "How thoughts stopped, and what the grader said",
            "Shares of rollouts. Thoughts should stop by an ending, not by the limit; errors and timeouts of the "
            "grader should be 0.",
            [(f"stop/{stop}", f"Stopped by: {shown(stop, 40)}", "rollouts, %", True) for stop in _stops_of_runs(arms)]
            + [(f"verdict/{v}", f"Verdict: {v.replace('_', ' ')}", "rollouts, %", True) for v in _VERDICTS],
        ),
    ]
    return [f for f in figures if f is not None] or [missing("no run has a finished update.")]


def of_evaluation(results: Results) -> Table | None:
    """Per cell: verdicts, stops, lengths, speed."""
    cells = _in_order(results)
    if not cells:
        return None
    stops = _ordered(stop for cell in cells for stop in table(cell.summary.get("stops")))
    rows = [_row(results, cell, stops) for cell in cells]
    columns = ["model, cell", "right", "wrong", "no answer", "grader failed"]
    columns += [*(f"by {shown(stop, 40)}" for stop in stops), "thought steps", "tokens/s", "time"]
    caption = (
        "Shares of samples in percent. Grader failed: errors and timeouts, which count as not solved. Thought steps: "
        "mean, below it the median and the 95th percentile."
    )
    return Table("cells", "Every cell of the evaluation", caption, columns, rows, compact=True)


def _stops_of_runs(arms: Sequence[Arm[Run]]) -> list[str]:
    keys = (key for arm in arms for run in arm.members for line in run.metrics[:1] for key in line)
    return _ordered(key.removeprefix("stop/") for key in keys if key.startswith("stop/"))


def _ordered(stops: Iterable[str]) -> list[str]:
    """Each stop reason once: the endings first, then the limit and the end-of-sequence token."""
    names = dict.fromkeys(stops)
    return [*(name for name in names if name not in (LIMIT, EOS)), *(name for name in (LIMIT, EOS) if name in names)]


def _in_order(results: Results) -> list[Cell]:
    order = [(arm, member, task) for task in results.tasks for arm in results.arms for member in arm.members]
    keys = [(member.name, task, name) for _, member, task in order for name in results.names(task)]
    return [results.sources.cells[key] for key in keys if key in results.sources.cells]


def _row(results: Results, cell: Cell, stops: Sequence[str]) -> list[Entry]:
    verdicts, share_of_stop = table(cell.summary.get("verdicts")), table(cell.summary.get("stops"))
    failed = [number(verdicts.get(verdict)) for verdict in ("grader_error", "grader_timeout")]
    failed = None if all(f is None for f in failed) else sum(f or 0 for f in failed)
    lengths = table(cell.summary.get("thought_length"))
    spread = f"{plain(number(lengths.get('median')))} · {plain(number(lengths.get('p95')))}"
    where = f"{cell.name}, {cell.task}" if len(results.tasks) > 1 else cell.name
    shares = [number(verdicts.get(v)) for v in ("right", "wrong", "no_answer")] + [failed]
    shares += [number(share_of_stop.get(stop)) for stop in stops]
    return [
        Entry(cell.model, below=where, mode=results.sources.models[cell.model].mode),
        *(Entry(percent(share), share) for share in shares),
        Entry(plain(number(lengths.get("mean"))), below=spread),
        Entry(plain(number(cell.summary.get("tokens_per_second")))),
        Entry(duration(number(cell.summary.get("seconds")))),
    ]


def _figure(
    arms: Sequence[Arm[Run]], id: str, title: str, caption: str, keys: list[tuple[str, str, str, bool]]
) -> Figure | None:
    panels = []
    for key, name, unit, is_share in keys:
        series = [s for arm in arms for s in curve(arm, key)]
        if series:
            panels.append(Panel(name, "update", unit, series, share=is_share, y_zero=is_share))
    return Figure(id, title, f"{caption} Running means, as above.", panels) if panels else None


def _gradients(arms: Sequence[Arm[Run]]) -> Figure | None:
    """One panel per arm: the two terms are compared with each other, not across modes."""
    panels = []
    for arm in arms:
        run = arm.members[0]
        terms = [
            ("grad_norm/thought", "thought term", 0),
            ("grad_norm/answer", "answer term", 1),
            ("grad_norm", "sum", 2),
        ]
        series = []
        for key, name, dash in terms:
            x, y = run.column(key)
            positive = [value if value > 0 else None for value in y]
            if any(value is not None for value in positive):
                faint = key == "grad_norm"
                series.append(Series(name, arm.mode, x, positive, faint=faint, dash=dash))
        if series:
            panels.append(Panel(arm.label, "update", "gradient norm", series, y_log=True))
    if not panels:
        return None
    caption = (
        "Norms of the gradient of the weighted thought term and answer term apart, where they were measured, and of "
        "the whole loss before clipping (faint). Where the thought term is many times the answer term, clipping leaves "
        "little of the latter. Of several seeds the first is shown; norms of 0 cannot be on a logarithmic axis and are "
        "left out."
    )
    return Figure("gradients", "Gradient norms of the two terms", caption, panels)


def _mismatch(arms: Sequence[Arm[Run]]) -> Figure | None:
    panels = []
    for key, name in (
        ("mismatch/thought_kl", "Thoughts, soft and fuzzy"),
        ("mismatch/thought_log_prob", "Thoughts, hard"),
        ("mismatch/answer_log_prob", "Answers"),
    ):
        series = [s for arm in arms for s in curve(arm, key, smooth=False)]
        if any(value for s in series for value in s.y):
            panels.append(Panel(name, "update", "nats per step", series, y_log=True, line_at=THRESHOLDS["mismatch"]))
    if not panels:
        return None
    caption = (
        "How far sampling and training are apart on the same rollouts: for mixtures the squared distance over twice "
        f"the noise variance, otherwise the difference of log-probabilities. Dotted: {THRESHOLDS['mismatch']:g}, above "
        "which a warning is given. Values of 0 are left out."
    )
    return Figure("mismatch", "Mismatch between rollout and replay", caption, panels)
