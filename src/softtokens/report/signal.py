"""How much of a batch's gradient is signal: the results of `softtokens signal --output`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softtokens.report.blocks import MINUS, MODES, Block, Entry, Table, Words, percent, plain
from softtokens.report.readers import number, rows_of, table, text
from softtokens.report.sanitize import shown
from softtokens.report.training import short_name

_TERMS = ("thought", "answer", "sum")


def blocks(signals: Sequence[tuple[Path, dict[str, Any]]]) -> list[Block]:
    """One table per file, with its sentences."""
    made: list[Block] = []
    for index, (_, signal) in enumerate(signals):
        settings = rows_of(signal.get("settings"))
        made.append(_table(index, signal, settings))
        made += [Words(shown(text(one.get("sentence")), 400)) for one in settings if one.get("sentence")]
    return made


def _table(index: int, signal: dict[str, Any], settings: list[dict[str, Any]]) -> Table:
    batches, group = number(signal.get("batches")), number(signal.get("group_size"))
    title = f"{short_name(text(signal.get('model'), 'unknown'))}, {short_name(text(signal.get('task'), 'unknown'))}"
    sketch = number(signal.get("sketch"))
    caption = (
        f"{plain(batches)} independent batches of {plain(number(signal.get('problems_per_step')))} problems × "
        f"{plain(group)} rollouts, {'gradients compared whole' if sketch is None else f'sketched in {plain(sketch)}'}. "
        "Cosine: mean between the gradients of different batches, ± its standard error; 1 is all signal, 0 all noise. "
        "Noise scale: rollouts at which signal equals noise in the sum of the terms, with its 95 % interval. Spread: "
        "groups whose rewards differ."
    )
    columns = ["setting", "reward", "solved %", "spread %", *(f"cosine, {term}" for term in _TERMS), "noise scale"]
    return Table(f"signal-{index}", title, caption, columns, [_row(one) for one in settings])


def _row(one: dict[str, Any]) -> list[Entry]:
    mode = text(table(one.get("thought")).get("mode"))
    terms = {term: table(table(one.get("terms")).get(term)) for term in _TERMS}
    shares = [number(one.get(name)) for name in ("solved", "spread")]
    return [
        Entry(shown(text(one.get("name"), "unknown"), 48), mode=mode if mode in MODES else ""),
        Entry(plain(number(one.get("reward")))),
        *(Entry(percent(share, 0), share) for share in shares),
        *(_cosine(term) for term in terms.values()),
        _scale(terms["sum"]),
    ]


def _cosine(term: dict[str, Any]) -> Entry:
    value, error = number(term.get("cosine")), number(term.get("cosine_error"))
    shown = "–" if value is None else f"{value:+.3f}".replace("-", MINUS)
    return Entry(shown, value, below="" if error is None else f"± {error:.3f}")


def _scale(term: dict[str, Any]) -> Entry:
    scale, low, high = (number(term.get(name)) for name in ("noise_scale", "low", "high"))
    if scale is not None:
        return Entry(_about(scale), scale, below=f"{_about(low)} to {_about(high)}")
    return Entry("unknown" if low is None else f"more than {_about(low)}")


def _about(rollouts: float | None) -> str:
    return "–" if rollouts is None else f"{float(f'{rollouts:.2g}'):,.0f}"
