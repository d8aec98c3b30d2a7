"""Out of domain: how training changed other tasks (Table 2 of the paper) and the likelihood of the base model's own
texts."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from softtokens.report import paper
from softtokens.report.arms import Arm
from softtokens.report.blocks import MINUS, Block, Entry, Mark, Table, missing, percent, plain, span
from softtokens.report.estimates import Difference, Results, paired
from softtokens.report.readers import number, numbers, table, text
from softtokens.report.sources import Model

_SAME_ITEMS = ("source", "sha256", "limit", "items")  # equal if two models answered the same items


def blocks(results: Results) -> list[Block]:
    tables: list[Block] = [b for b in (_choices(results), _preservation(results)) if b is not None]
    return tables or [
        missing("no multiple choice (evaluate with --choices) and no texts to compare with the base were given.")
    ]


def _choices(results: Results) -> Table | None:
    names = list(dict.fromkeys(text(choice["name"]) for choice in results.sources.choices))
    arms = [arm for arm in results.arms if any(_of(results, arm, name) for name in names)]
    if not arms:
        return None
    base = next((arm for arm in arms if arm.mode == "base"), None)
    rows = []
    for arm in arms:
        row = [Entry(arm.label, mode=arm.mode)]
        for name in names:
            choices = _of(results, arm, name)
            row += [_value(choices, "accuracy", 100, 1), _value(choices, "nll_per_token", 1, 3)]
            row.append(_against(choices, _of(results, base, name) if base else [], arm is base))
        rows.append(row)
    rows += paper.out_of_domain(arms, names)
    columns = ["trained", *(f"{name} {what}" for name in names for what in ("accuracy %", "NLL", f"NLL {MINUS} base"))]
    caption = (
        "Multiple choice, read as tokens (hard): the share of items whose right choice has the largest "
        "log-probability, and the negative log-likelihood per token of the right choice in nats, lower is better; with "
        "95 % intervals over items. The difference to base is paired over items; ▲▼: its interval leaves 0 out. Items: "
        + "; ".join(f"{name} {_counts(results, name)}" for name in names)
        + "."
    )
    return Table("out-of-domain", "Out of domain", caption, columns, rows)


def _of(results: Results, arm: Arm[Model] | None, name: str) -> list[dict[str, Any]]:
    members = {member.name for member in arm.members} if arm else set()
    return [c for c in results.sources.choices if c["model"] in members and text(c["name"]) == name]


def _counts(results: Results, name: str) -> str:
    counts = {number(c.get("items")) for c in results.sources.choices if text(c["name"]) == name}
    known = sorted(count for count in counts if count is not None)
    return " or ".join(plain(count, 6) for count in known) or "unknown"


def _value(choices: list[dict[str, Any]], key: str, scale: float, digits: int) -> Entry:
    measured = [table(choice.get(key)) for choice in choices]
    values = [v for v in (number(m.get("value")) for m in measured) if v is not None]
    if not values:
        return Entry("–", hint="not measured")
    mean = statistics.fmean(values)
    if len(values) > 1:
        deviation = statistics.stdev(values)
        return Entry(
            f"{scale * mean:.{digits}f}", mean, below=f"± {scale * deviation:.{digits}f} over {len(values)} seeds"
        )
    low, high = number(measured[0].get("low")), number(measured[0].get("high"))
    return Entry(f"{scale * mean:.{digits}f}", mean, low, high, below=span(low, high, scale, digits))


def _against(choices: list[dict[str, Any]], base: list[dict[str, Any]], is_base: bool) -> Entry:
    """The paired difference in NLL per token over items. An arm with several seeds counts with its mean per item."""
    if is_base:
        return Entry("")
    if not _same_items(choices, base):
        return Entry("–", hint="measured on other items than the base, or with other options")
    d = _difference(choices, base)
    if d is None:
        return Entry("–", hint="no item-by-item values to pair")
    mark: Mark = "" if not d.is_clear else "up-bad" if d.mean > 0 else "down-good"
    shown = f"{d.mean:+.4f}".replace("-", MINUS)
    return Entry(shown, d.mean, d.low, d.high, below=span(d.low, d.high, 1, 4), mark=mark)


def against(results: Results, arm: Arm[Model], other: Arm[Model], name: str) -> Difference | None:
    """NLL per token of the right choice, arm minus other, paired over items; None if the items differ."""
    choices, others = _of(results, arm, name), _of(results, other, name)
    return _difference(choices, others) if _same_items(choices, others) else None


def _same_items(choices: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    return len({json.dumps([choice.get(key) for key in _SAME_ITEMS]) for choice in [*choices, *others]}) == 1


def _difference(choices: list[dict[str, Any]], others: list[dict[str, Any]]) -> Difference | None:
    ours, theirs = _items(choices), _items(others)
    return None if ours is None or theirs is None or len(ours) != len(theirs) else paired(ours, theirs, shares=False)


def _items(choices: list[dict[str, Any]]) -> np.ndarray | None:
    each = [numbers(table(choice.get("per_item")).get("nll_per_token")) for choice in choices]
    if not each or not each[0] or any(len(e) != len(each[0]) or None in e for e in each):
        return None
    return np.mean(np.array(each, dtype=np.float64), axis=0)


def _preservation(results: Results) -> Table | None:
    rows = []
    for kept in results.sources.preservation:
        model = results.sources.models.get(text(kept.get("model")))
        if model is None:
            continue
        entries = [_kept(kept, "kl_per_token", plain, 1, 4), _kept(kept, "top1_agreement", percent, 100, 1)]
        entries.append(_kept(kept, "nll_difference", plain, 1, 4))
        counts = f"{plain(number(kept.get('texts')))} texts, {plain(number(kept.get('tokens')), 6)} tokens"
        rows.append([Entry(model.name, mode=model.mode, below=counts), *entries])
    if not rows:
        return None
    caption = (
        "On given texts, read as tokens: KL(base ‖ trained) per token in nats, how often both find the same token most "
        "likely, and by how much the trained model's negative log-likelihood is higher; 95 % intervals over texts."
    )
    columns = ["trained", "KL from base", "same first choice, %", f"NLL {MINUS} base"]
    return Table("preservation", "What the base still is", caption, columns, rows)


def _kept(kept: dict[str, Any], key: str, show: Callable[..., str], scale: float, digits: int) -> Entry:
    measured = table(kept.get(key))
    value, low, high = (number(measured.get(name)) for name in ("value", "low", "high"))
    if value is None:
        return Entry("–", hint="not measured")
    return Entry(show(value).replace("-", MINUS), value, low, high, below=span(low, high, scale, digits))
