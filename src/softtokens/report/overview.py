"""The main result: how much every model solves in every setting, and which differences are beyond chance."""

from __future__ import annotations

from softtokens.config.thought import NAMED_CELLS, SETTINGS
from softtokens.evaluate.intervals import holm
from softtokens.report.arms import Arm
from softtokens.report.blocks import CONTINUOUS, MINUS, MODES, Block, Entry, Mark, Table, missing, percent, span
from softtokens.report.estimates import Difference, Estimate, Results
from softtokens.report.readers import number
from softtokens.report.sources import Model, Sources
from softtokens.report.training import short_name


def verdict(results: Results) -> list[Block]:
    """One table per task: models in rows, settings in columns, pass@1 with its interval in the cells."""
    tables = [_verdict_of(results, task) for task in results.tasks]
    return [t for t in tables if t] or [missing("no evaluation has a finished cell in one of the named settings.")]


def differences(results: Results) -> list[Block]:
    """One table per task: trained models minus the base, and other modes minus hard."""
    tables = [_differences_of(results, task) for task in results.tasks]
    return [t for t in tables if t] or [
        missing("differences need two models that were evaluated on the same problems in the same setting.")
    ]


def _verdict_of(results: Results, task: str) -> Table | None:
    names = [name for name in results.names(task) if name in NAMED_CELLS]
    arms = results.arms_of(task)
    if not names or not arms:
        return None
    estimates = {(a, n): results.estimate(arm, task, n, 1) for a, arm in enumerate(arms) for n in names}
    known = {key: estimate.value for key, estimate in estimates.items() if estimate is not None}
    best = max(known, key=known.__getitem__) if known and len(known) > 1 and max(known.values()) > 0 else None
    rows = []
    for a, arm in enumerate(arms):
        entries = [Entry(arm.label, mode=arm.mode, below=_seeds(arm))]
        for name in names:
            entry = _share(estimates[a, name], _largest(results, arm, task, name))
            mark = "best" if (a, name) == best else "tied" if _ties(results, arms, best, (a, name), task) else ""
            entries.append(Entry(**{**vars(entry), "mark": mark}))
        rows.append(entries)
    problems = sorted(
        {int(number(c.summary.get("problems")) or 0) for (_, t, _), c in results.sources.cells.items() if t == task}
    )
    several = len(results.tasks) > 1
    caption = (
        f"Problems of {task} solved, percent ({_range(problems)} problems), with the 95 % interval over problems, "
        "drawn below on 0 to 100; @n: with n attempts; ±: standard deviation over seeds, where there are several. "
        "Rows: how the model was trained; columns: how it thinks while being tested. ● best of all; ○ not told apart "
        "from the best by a paired interval."
    )
    return Table(f"verdict-{task}" if several else "verdict", f"Solved: {task}", caption, ["trained", *names], rows)


def _ties(
    results: Results, arms: list[Arm[Model]], best: tuple[int, str] | None, key: tuple[int, str], task: str
) -> bool:
    if best is None or key == best:
        return False
    d = results.difference(arms[best[0]], arms[key[0]], task, best[1], 1, other=key[1])
    return d is not None and not d.is_clear


def _share(estimate: Estimate | None, below: str) -> Entry:
    if estimate is None:
        return Entry("–", hint="not measured")
    low, high = estimate.low, estimate.high
    hint = "" if len(estimate.seeds) < 2 else "seeds: " + ", ".join(percent(s) for s in estimate.seeds)
    bar = None if low is None or high is None else (estimate.value, low, high)
    spread = "" if estimate.deviation is None else f"± {percent(estimate.deviation)}"
    lines = " · ".join(part for part in (span(low, high), spread, below) if part)
    return Entry(percent(estimate.value), estimate.value, low, high, below=lines, hint=hint, bar=bar)


def _largest(results: Results, arm: Arm[Model], task: str, name: str) -> str:
    ks = results.ks(task, name)
    if len(ks) < 2:
        return ""
    estimate = results.estimate(arm, task, name, ks[-1])
    return "" if estimate is None else f"@{ks[-1]} {percent(estimate.value, 0)}"


def _differences_of(results: Results, task: str) -> Table | None:
    arms = results.arms_of(task)
    pairs = [(a, b) for b in arms if b.mode in ("base", "hard") for a in arms if a.mode not in ("base", b.mode)]
    cells = [(n, k) for n in results.names(task) if n in NAMED_CELLS for k in _first_and_last(results.ks(task, n))]
    differences = {(a.label, b.label, *c): results.difference(a, b, task, *c) for a, b in pairs for c in cells}
    known = {key: d for key, d in differences.items() if d is not None}
    if not known:
        return None
    corrected = dict(zip(known, holm([d.p for d in known.values()]), strict=True))
    reach = max(abs(x) for d in known.values() for x in (d.mean, d.low, d.high) if x is not None) or 1.0
    pairs = [(a, b) for a, b in pairs if any((a.label, b.label, *c) in known for c in cells)]
    rows = [
        [Entry(name, below=f"pass@{k}")]
        + [
            _change(differences[a.label, b.label, name, k], corrected.get((a.label, b.label, name, k)), reach)
            for a, b in pairs
        ]
        for name, k in cells
    ]
    rows = [row for row in rows if any(entry.value is not None for entry in row)]
    caption = (
        f"Differences on the same problems of {task}, in points, with the 95 % interval over problems, drawn on "
        f"±{100 * reach:.0f} points. ▲▼: the difference holds at 5 % after correction for all {len(known)} "
        "comparisons of this table (sign-flip test, Holm); intervals are not corrected. They say what other problems "
        "of the kind would show, not what another training seed would."
    )
    columns = ["setting", *(f"{a.label} {MINUS} {b.label}" for a, b in pairs)]
    several = len(results.tasks) > 1
    return Table(f"differences-{task}" if several else "differences", f"Differences: {task}", caption, columns, rows)


def _change(d: Difference | None, p: float | None, reach: float) -> Entry:
    if d is None or p is None:
        return Entry("–", hint="not measured on the same problems")
    bounds = (d.mean if d.low is None else d.low, d.mean if d.high is None else d.high)
    mean, low, high = (0.5 + x / reach / 2 for x in (d.mean, *bounds))
    mark: Mark = "" if p >= 0.05 else "up" if d.mean > 0 else "down"
    hint = f"p = {d.p:.2g}, corrected {p:.2g}, {d.problems} problems"
    below = span(d.low, d.high)
    shown = f"{100 * d.mean:+.1f}".replace("-", MINUS)
    return Entry(shown, d.mean, d.low, d.high, below, mark, hint=hint, bar=(mean, low, high), zero=0.5)


def _first_and_last(ks: list[int]) -> list[int]:
    return ks[:1] if len(ks) < 2 else [ks[0], ks[-1]]


def _seeds(arm: Arm[Model]) -> str:
    return f"{len(arm.members)} seeds" if len(arm.members) > 1 else ""


def _range(values: list[int]) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}" if values else "no"


def title(sources: Sources) -> tuple[str, str]:
    """One line about what was trained on what, and the folders."""

    def several(names: dict[str, None], kind: str) -> str:
        return _listed(list(names)) if len(names) <= 3 else f"{len(names)} {kind}"

    modes = [mode for mode in MODES if mode in {run.mode for run in sources.runs}]
    models = dict.fromkeys(short_name(run.model) for run in sources.runs)
    tasks = dict.fromkeys(short_name(run.task) for run in sources.runs)
    where = " · ".join(sources.given)
    if modes:
        return (
            f"{_listed(modes).capitalize()} thoughts: {several(models, 'models')} on {several(tasks, 'tasks')}",
            where,
        )
    evaluated = [short_name(task) for task in dict.fromkeys(task for _, task, _ in sources.cells)]
    return (f"Evaluation on {_listed(evaluated)}" if evaluated else "softtokens report"), where


def in_words(results: Results) -> str:
    """The result in a few sentences for each task: the best cell, what each training changed in its own mode, and how
    soft and fuzzy training compare with hard training."""
    sentences = []
    for task in results.tasks:
        arms = results.arms_of(task)
        measured = [
            (estimate.value, arm.label, name)
            for arm in arms
            for name in results.names(task)
            if name in NAMED_CELLS and (estimate := results.estimate(arm, task, name, 1)) is not None
        ]
        if len(measured) > 1 and max(measured)[0] > 0:
            value, label, name = max(measured, key=lambda one: one[0])  # the first of equal ones, as in the table
            equals = sum(one[0] == value for one in measured) - 1
            alike = "" if equals == 0 else f" (and {equals} more alike)"
            sentences.append(
                f"On {task}, {label} tested {name}{alike} solves most at the first attempt: {percent(value)} %."
            )
        base = next((arm for arm in arms if arm.mode == "base"), None)
        compared = [] if base is None else _against_base(results, arms, base, task)
        if compared:
            sentences.append(f"Compared with the base, pass@1: {'; '.join(compared)}.")
        hard = next((arm for arm in arms if arm.mode == "hard"), None)
        parity = [] if hard is None else _against_hard(results, arms, hard, task)
        if parity:
            sentences.append(f"Compared with hard training, pass@1: {'; '.join(parity)}.")
    return " ".join(sentences)


def _against_base(results: Results, arms: list[Arm[Model]], base: Arm[Model], task: str) -> list[str]:
    pairs = [(arm, _sampled(arm.mode)) for arm in arms if arm is not base]
    changes = [(arm, own, results.difference(arm, base, task, own, 1)) for arm, own in pairs if own is not None]
    return [_comparison(arm.label, own, d) for arm, own, d in changes if d is not None]


def _against_hard(results: Results, arms: list[Arm[Model]], hard: Arm[Model], task: str) -> list[str]:
    others = [arm for arm in arms if arm.mode in CONTINUOUS]
    changes = [(arm, results.difference(arm, hard, task, "hard-greedy", 1)) for arm in others]
    return [_comparison(arm.label, "hard-greedy", d) for arm, d in changes if d is not None]


def _sampled(mode: str) -> str | None:
    """The sampled setting of a mode."""
    names = (name for name, s in SETTINGS.items() if s.thought.mode == mode and not s.is_greedy)
    return next(names, None)


def _comparison(label: str, setting: str, d: Difference) -> str:
    change = f"{100 * d.mean:+.1f}".replace("-", MINUS)
    unclear = "" if d.is_clear else ", no clear difference"
    return f"{label} training {change} points {span(d.low, d.high)} in {setting}{unclear}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "nothing"
