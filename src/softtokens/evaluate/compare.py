"""Paired comparisons of cells on the same problems: difference, interval, p-value, corrected for how many are made.

Knows no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from softtokens.config.evaluate import CHOICE_METRICS, METRIC, CompareConfig
from softtokens.config.thought import SETTINGS
from softtokens.evaluate.folder import SCHEMA
from softtokens.evaluate.intervals import holm, paired_difference
from softtokens.evaluate.passk import MAX_VOTERS, maj_at_k, pass_at_k
from softtokens.evaluate.results import Results, read_results
from softtokens.types import UserError

Arm = tuple[str, str, str | None]  # (model, task, cell, or setting with `best`; None for multiple choice)
_SAME_ITEMS = ("source", "sha256", "limit", "items")
_PER_ITEM = {"accuracy": "correct", "accuracy_normalized": "correct_normalized", "nll_per_token": "nll_per_token"}


def compare(config: CompareConfig) -> dict[str, Any]:
    """{"schema", "evaluation", "against", "best", "comparisons", "skipped"}: each comparison has metric, task, model,
    cell, reference_model, reference_cell, of, of_reference (the two means), value (their difference), low, high, p,
    p_holm, problems and differing; with `best` also chosen and chosen_reference, the cells by half of the problems.

    Skipped are the ones that cannot be made, with the reason. UserError when none can.
    """
    results = read_results(config.evaluation)
    _require_known("models", config.models, results.models)
    _require_known("tasks", config.tasks, [*results.tasks, *(name for _, name in results.choices)])
    _require_known("cells", config.cells, results.cells)
    against = config.against or results.models[0]
    comparisons, skipped = [], []
    for metric in config.metrics:
        arms = _arms(results, config, metric)
        reference_model, reference_cell = _reference(results, arms, against, metric)
        for arm, reference in _pairs(arms, config, reference_model, reference_cell):
            one: dict[str, Any] = {"metric": metric, "task": arm[1], "model": arm[0], "cell": arm[2]}
            one |= {"reference_model": reference[0], "reference_cell": reference[2]}
            try:
                _require_same_items(metric, arms[arm], arms[reference])
                (a, chosen), (b, chosen_reference) = (_values(arms[x], metric) for x in (arm, reference))
            except _Impossible as error:
                skipped.append(one | {"reason": str(error)})
                continue
            if config.best:
                one |= {"chosen": chosen, "chosen_reference": chosen_reference}
            one |= {"of": float(a.mean()), "of_reference": float(b.mean())}
            comparisons.append(one | paired_difference(a, b, shares=metric != "nll_per_token"))
    if not comparisons:
        reason = skipped[0]["reason"] if skipped else "nothing that is finished matches what was asked for"
        raise UserError(f"there is nothing to compare with {against!r}: {reason}")
    for one, corrected in zip(comparisons, holm([c["p"] for c in comparisons]), strict=True):
        one["p_holm"] = corrected
    made = {"schema": SCHEMA, "evaluation": config.evaluation, "against": against, "best": config.best}
    return made | {"comparisons": comparisons, "skipped": skipped}


class _Impossible(Exception):
    """A comparison that these results do not allow; the message explains why."""


def _arms(results: Results, config: CompareConfig, metric: str) -> dict[Arm, list[dict[str, Any]]]:
    """Everything that can be compared, with its results: one cell, or with `best` all cells of a grid."""
    if metric in CHOICE_METRICS:
        return {(model, name, None): [result] for (model, name), result in results.choices.items()}
    arms: dict[Arm, list[dict[str, Any]]] = {}
    for (model, task, cell), summary in results.summaries.items():
        arms.setdefault((model, task, summary["setting"] if config.best else cell), []).append(summary)
    return arms


def _pairs(arms: dict, config: CompareConfig, model: str | None, cell: str | None) -> Iterator[tuple[Arm, Arm]]:
    """(what, with what), in the order of the evaluation."""
    for arm in arms:
        chosen = zip((config.models, config.tasks, config.cells), arm, strict=True)
        wanted = all(not names or part is None or part in names for names, part in chosen)
        reference = (model or arm[0], arm[1], cell or arm[2])
        if wanted and reference != arm and reference in arms:
            yield arm, reference


def _reference(results: Results, arms: dict, against: str, metric: str) -> tuple[str | None, str | None]:
    """Model and cell that `against` names. None stands for that of the compared cell."""
    if against in results.models:
        return against, None
    model, slash, cell = against.rpartition("/")
    cells = list(dict.fromkeys(cell for _, _, cell in arms if cell is not None))
    if metric in CHOICE_METRICS:
        if model in results.models:
            return model, None
        raise UserError(f"against is {against!r}, but {metric} is measured once per model; name a model")
    if cell in cells and (model in results.models or not slash):
        return model or None, cell
    raise UserError(
        f"against is {against!r}; give a model ({', '.join(results.models)}), a cell ({', '.join(cells)}), or both as "
        "MODEL/CELL"
    )


def _require_same_items(metric: str, results: list[dict[str, Any]], reference: list[dict[str, Any]]) -> None:
    """Items have no names, so both lists must be equal; evaluate checks problems."""
    if metric in CHOICE_METRICS and any(results[0].get(key) != reference[0].get(key) for key in _SAME_ITEMS):
        raise _Impossible(f"{metric} was measured on other items, or with other options, than those of the reference")


def _values(results: list[dict[str, Any]], metric: str) -> tuple[np.ndarray, list[str]]:
    """One value per problem (or item), in the order that all models and cells share; and the cells that they are of."""
    if metric in CHOICE_METRICS:
        values = results[0]["per_item"][_PER_ITEM[metric]]
        if values is None or None in values:
            unknown = "any" if values is None else f"{values.count(None)} of {len(values)}"
            raise _Impossible(f"{metric} could not be measured on {unknown} items")
        return np.array(values, dtype=np.float64), []
    values = np.array([_per_problem(summary, metric) for summary in results])
    names = [summary["cell"] for summary in results]
    if len(results) == 1:
        return values[0], names
    if values.shape[1] < 2:
        raise _Impossible("choosing the best of a grid on one half of the problems needs at least 2 problems")
    even = np.arange(values.shape[1]) % 2 == 0
    by_odd, by_even = int(values[:, ~even].mean(axis=1).argmax()), int(values[:, even].mean(axis=1).argmax())
    return np.where(even, values[by_odd], values[by_even]), [names[by_odd], names[by_even]]


def _per_problem(summary: dict[str, Any], metric: str) -> np.ndarray:
    parts = METRIC.fullmatch(metric)
    assert parts is not None, metric
    kind, samples, k = parts[1], summary["samples"], int(parts[2])
    if k > samples:
        greedy = " (greedy settings are deterministic)" if _is_greedy(summary["setting"]) else ""
        raise _Impossible(f"{metric} needs {k} samples per problem, and {summary['cell']} has {samples}{greedy}")
    if kind == "pass":
        return pass_at_k(summary["right"], samples, k)
    if samples > MAX_VOTERS:
        raise _Impossible(f"{metric} is computed for up to {MAX_VOTERS} samples, and there are {samples}")
    return maj_at_k(summary["votes"], samples, [k])[:, 0]


def _require_known(name: str, given: Sequence[str], known: Sequence[str]) -> None:
    for value in given:
        if value not in known:
            raise UserError(f"{name} is {value!r}; the evaluation has {', '.join(dict.fromkeys(known))}")


def _is_greedy(setting: str) -> bool:
    return setting in SETTINGS and SETTINGS[setting].is_greedy
