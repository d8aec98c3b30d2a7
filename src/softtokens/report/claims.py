"""The paper's claims about soft and fuzzy training (arXiv 2509.19170), and what these runs show of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from softtokens.report.arms import Arm
from softtokens.report.blocks import CONTINUOUS, MINUS, Entry, Table, span
from softtokens.report.estimates import Difference, Results
from softtokens.report.out_of_domain import against
from softtokens.report.readers import text
from softtokens.report.sources import Model


def tables(results: Results) -> list[Table]:
    """One table per task on which a hard arm and a soft or fuzzy arm were evaluated."""
    return [table for task in results.tasks if (table := _of_task(results, task)) is not None]


def _of_task(results: Results, task: str) -> Table | None:
    arms = results.arms_of(task)
    hard = next((arm for arm in arms if arm.mode == "hard"), None)
    others = [arm for arm in arms if arm.mode in CONTINUOUS]
    if hard is None or not others:
        return None
    rows = [
        [Entry(claim), *([_entry(find(arm), scale) for arm in others])]
        for claim, scale, find in _claims(results, task, hard)
    ]
    rows = [row for row in rows if any(entry.value is not None for entry in row)]
    if not rows:
        return None
    caption = (
        "Paired differences with 95 % intervals over problems (items); points of pass@k, nats per token. An interval "
        "that contains 0 is no clear difference. The paper's claims are about models of 3 and 8 billion parameters."
    )
    several = len(results.tasks) > 1
    title = f"The paper's claims, here: {task}"
    columns = ["claim", *(arm.label for arm in others)]
    return Table(f"claims-{task}" if several else "claims", title, caption, columns, rows)


Finder = Callable[[Arm[Model]], Difference | None]


def _claims(results: Results, task: str, hard: Arm[Model]) -> Iterator[tuple[str, float, Finder]]:
    """The claim, the scale of its numbers, and the difference that decides it for an arm."""

    def above_hard(name: str, k: int) -> Finder:
        return lambda arm: results.difference(arm, hard, task, name, k)

    def more_forgotten(name: str) -> Finder:
        return lambda arm: against(results, arm, hard, name)

    yield (
        "As good as hard training at pass@1 (trained minus hard, tested hard-greedy)",
        100,
        above_hard("hard-greedy", 1),
    )
    most = max(results.ks(task, "hard-sample"), default=1)
    if most > 1:
        claim = f"Better than hard training at pass@{most} (trained minus hard, tested hard-sample)"
        yield claim, 100, above_hard("hard-sample", most)
    yield (
        "Best used with hard thoughts (hard-greedy minus the own mode's greedy setting)",
        100,
        lambda arm: results.difference(arm, arm, task, "hard-greedy", 1, other=f"{arm.mode}-greedy"),
    )
    for name in dict.fromkeys(text(choice["name"]) for choice in results.sources.choices):
        yield (
            f"Forgets less than hard training ({name}: NLL of the right choice, trained minus hard)",
            1,
            more_forgotten(name),
        )


def _entry(d: Difference | None, scale: float) -> Entry:
    if d is None:
        return Entry("–", hint="not measured on the same problems")
    digits = 1 if scale == 100 else 4
    value = f"{scale * d.mean:+.{digits}f}".replace("-", MINUS)
    return Entry(value, d.mean, d.low, d.high, below=span(d.low, d.high, scale, digits))
