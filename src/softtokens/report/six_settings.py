"""Every model in all six settings, in the form of the paper's Tables 3 to 5, with the paper's numbers where they are
comparable."""

from __future__ import annotations

from softtokens.config.thought import PAPER_SETTINGS
from softtokens.report import paper
from softtokens.report.arms import Arm
from softtokens.report.blocks import Block, Entry, Table, missing, percent, span
from softtokens.report.estimates import Results
from softtokens.report.readers import number, text
from softtokens.report.sources import Model

_ORDER = ("hard-greedy", "hard-sample", "fuzzy-greedy", "fuzzy-sample", "soft-greedy", "soft-sample")


def blocks(results: Results) -> list[Block]:
    tables: list[Block] = [t for t in (_table(results, task) for task in results.tasks) if t is not None]
    return tables or [missing("no evaluation has a finished cell.")]


def _table(results: Results, task: str) -> Table | None:
    arms = results.arms_of(task)
    columns = [
        (name, k)
        for name in _ORDER
        if name in results.names(task) and name in PAPER_SETTINGS
        for k in _shown(results.ks(task, name))
    ]
    if not arms or not columns:
        return None
    rows = [[_name(arm), *(_entry(results, arm, task, name, k) for name, k in columns)] for arm in arms]
    is_test = text(results.sources.tasks.get(task, {}).get("split"), "test") == "test"
    theirs = paper.six_settings(arms, task, columns) if is_test else []
    problems = sorted(
        {
            int(number(c.summary.get("problems")) or 0)
            for (_, where, _), c in results.sources.cells.items()
            if where == task
        }
    )
    caption = (
        "Percent of problems solved. H, F, S: hard, fuzzy, soft; G, S: greedy, sample; @k: with k samples. Of one seed "
        "with the 95 % interval over problems, of several the mean ± standard deviation over seeds. "
        + (
            "In italics: the paper's own numbers (arXiv 2509.19170v2), for the same model, training and test, all of "
            f"its problems (here {' or '.join(map(str, problems))}); their thought limits and prompts may differ."
            if theirs
            else "The paper has no numbers for this model and test, so none are shown."
        )
    )
    labels = [f"{paper.CODES[name]}@{k}" for name, k in columns]
    return Table(f"settings-{task}", f"All six settings: {task}", caption, ["trained", *labels], [*rows, *theirs])


def _name(arm: Arm[Model]) -> Entry:
    return Entry(arm.label, mode=arm.mode, below=f"{len(arm.members)} seeds" if len(arm.members) > 1 else "")


def _entry(results: Results, arm: Arm[Model], task: str, name: str, k: int) -> Entry:
    estimate = results.estimate(arm, task, name, k)
    if estimate is None:
        return Entry("–", hint="not measured")
    below = span(estimate.low, estimate.high)
    if estimate.deviation is not None:
        below = f"± {percent(estimate.deviation)}"
    return Entry(percent(estimate.value), estimate.value, estimate.low, estimate.high, below=below)


def _shown(ks: list[int]) -> list[int]:
    """k = 1, the paper's 32, and all samples."""
    return sorted({k for k in (1, 32, max(ks, default=1)) if k in ks})
