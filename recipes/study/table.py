"""Turns recipes/study/results into the tables of docs/findings.md.

    python recipes/study/table.py            # print
    python recipes/study/table.py --write    # put them between the markers in docs/findings.md

Differences are paired: the same problems, and base evaluated with the same seed. Intervals are 95 % percentiles of a
bootstrap that draws training seeds and problems anew; with three seeds they are a little too narrow, so every seed's
own value stands beside them.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from softtokens.config.thought import PAPER_SETTINGS
from softtokens.evaluate.passk import pass_at_k
from study import ARMS, THOUGHTS

HERE = Path(__file__).resolve().parent
FINDINGS = HERE.parents[1] / "docs" / "findings.md"
DRAWS = 4000
CLAIMS = ("base", "hard", "soft", "fuzzy")

Result = dict[str, Any]


def read() -> dict[str, dict[int, Result]]:
    """Arm -> seed -> content of its file."""
    results: dict[str, dict[int, Result]] = {}
    for arm in ARMS:
        for path in sorted((HERE / "results").glob(f"{arm}-s*.json")):
            seed = path.stem.removeprefix(f"{arm}-s")
            if seed.isdigit():
                results.setdefault(arm, {})[int(seed)] = json.loads(path.read_text())
    return results


def shares(result: Result, setting: str, k: int = 1) -> np.ndarray:
    """pass@k of every problem."""
    return pass_at_k(result["right"][setting], result["samples"][setting], k)


def mean_and_interval(values: np.ndarray) -> tuple[float, float, float]:
    """values: [seeds, problems]. Their mean, and a 95 % interval over seeds and problems."""
    rng = np.random.default_rng(0)
    seeds, problems = values.shape
    means = []
    for _ in range(DRAWS):
        rows = values[rng.integers(seeds, size=seeds)]
        means.append(rows[:, rng.integers(problems, size=problems)].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def settings_table(results: dict[str, dict[int, Result]]) -> str:
    """The six settings of base and the main arms: pass@1 with half the interval, and pass@32 and @128."""
    lines = [
        "| trained | seeds | " + " | ".join(PAPER_SETTINGS) + " | facts |",
        "|" + "---|" * (len(PAPER_SETTINGS) + 3),
    ]
    for arm in (arm for arm in CLAIMS if arm in results):
        cells = []
        for setting in PAPER_SETTINGS:
            values = np.stack([shares(result, setting) for result in results[arm].values()])
            mean, low, high = mean_and_interval(values)
            text = f"{100 * mean:.1f} ±{50 * (high - low):.1f}"
            for k in (32, 128):
                if next(iter(results[arm].values()))["samples"][setting] >= k:
                    of_k = np.mean([shares(result, setting, k).mean() for result in results[arm].values()])
                    text += f"<br>@{k}: {100 * of_k:.1f}"
            cells.append(text)
        facts = np.mean([result["facts"]["accuracy"]["value"] for result in results[arm].values()])
        lines.append(f"| {arm} | {len(results[arm])} | " + " | ".join(cells) + f" | {100 * facts:.1f} |")
    return "\n".join(lines)


def arms_table(results: dict[str, dict[int, Result]]) -> str:
    """Every arm: greedy validation in its own mode while training, and what it gained on the test problems."""
    lines = [
        "| arm | own mode, greedy validation after 10, 20, 30, 40 | own mode, sampled: pass@1 over base | each seed | "
        "hard sampled: pass@1 over base | each seed | hard greedy |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, of_seeds in results.items():
        flags = ARMS[arm].flags
        if flags is None:
            continue
        base = results.get("base" if ARMS[arm].thoughts == THOUGHTS else "base-short", {})
        both = [(result, base[seed]) for seed, result in of_seeds.items() if seed in base]
        if not both:
            continue
        mode = re.findall(r"--mode (\w+)", flags)[0]
        curves = [list(result["training"]["validation"].values()) for result in of_seeds.values()]
        curve = ", ".join(f"{100 * value:.0f}" for value in np.mean(curves, 0))
        cells = [curve, *gain(both, f"{mode}-sample"), *(gain(both, "hard-sample") if mode != "hard" else ("", ""))]
        greedy = np.mean([shares(result, "hard-greedy").mean() for result in of_seeds.values()])
        lines.append(f"| {arm} | " + " | ".join(cells) + f" | {100 * greedy:.1f} |")
    return "\n".join(lines)


def gain(both: list[tuple[Result, Result]], setting: str) -> tuple[str, str]:
    """Trained minus base, and of every seed alone; nothing where base was not evaluated in this setting."""
    if any(setting not in base["right"] for _, base in both):
        return "", ""
    differences = np.stack([shares(trained, setting) - shares(base, setting) for trained, base in both])
    mean, low, high = mean_and_interval(differences)
    return (
        f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
        ", ".join(f"{100 * row.mean():+.1f}" for row in differences),
    )


def claims_table(results: dict[str, dict[int, Result]]) -> str:
    """The numbers that decide each of the paper's claims about soft and fuzzy training, for seeds that hard training
    also has."""
    hard = results.get("hard", {})
    lines = ["| claim | decided by | soft | fuzzy |", "|---|---|---|---|"]
    for claim, decided_by, difference in (
        ("parity with hard training at pass@1", "trained minus hard, hard-greedy", against_hard("hard-greedy", 1)),
        ("", "trained minus hard, hard-sample", against_hard("hard-sample", 1)),
        ("better than hard training at pass@32", "trained minus hard, hard-sample@32", against_hard("hard-sample", 32)),
        ("best used with hard thoughts", "hard-greedy minus own greedy", hard_against_own),
    ):
        cells = []
        for arm in ("soft", "fuzzy"):
            both = [(result, hard[seed]) for seed, result in results.get(arm, {}).items() if seed in hard]
            if both:
                mean, low, high = mean_and_interval(np.stack([difference(arm, *pair) for pair in both]))
                cells.append(f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] ({len(both)} seeds)")
            else:
                cells.append("")
        lines.append(f"| {claim} | {decided_by} | " + " | ".join(cells) + " |")
    facts = []
    for arm in ("hard", "soft", "fuzzy"):
        pairs = [(r, results["base"][seed]) for seed, r in results.get(arm, {}).items() if seed in results["base"]]
        change = [r["facts"]["nll_per_token"]["value"] - base["facts"]["nll_per_token"]["value"] for r, base in pairs]
        facts.append(f"{arm} {np.mean(change):+.4f}" if change else f"{arm} not measured")
    lines.append(f"| forgets less than hard training | NLL of the facts over base, nats: {', '.join(facts)} | | |")
    return "\n".join(lines)


def against_hard(setting: str, k: int) -> Callable[[str, Result, Result], np.ndarray]:
    return lambda arm, trained, hard: shares(trained, setting, k) - shares(hard, setting, k)


def hard_against_own(arm: str, trained: Result, hard: Result) -> np.ndarray:
    return shares(trained, "hard-greedy") - shares(trained, f"{arm}-greedy")


TABLES = {"settings": settings_table, "claims": claims_table, "arms": arms_table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace the tables in docs/findings.md")
    arguments = parser.parse_args()
    results = read()
    for name, table in TABLES.items():
        text = table(results)
        if arguments.write:
            content = FINDINGS.read_text()
            begin, end = f"<!-- table {name} -->", "<!-- end -->"
            start = content.index(begin) + len(begin)
            FINDINGS.write_text(f"{content[:start]}\n{text}\n{content[content.index(end, start) :]}")
        else:
            print(text + "\n")


if __name__ == "__main__":
    main()
