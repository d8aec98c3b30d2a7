"""The study's arms are runs that can be configured, and its tables say what its result files hold."""

import dataclasses
import importlib
import json
from pathlib import Path

import pytest

from softtokens.cli.entry import parse
from softtokens.cli.quickstart import MODES, train_config
from softtokens.config.commands import QuickstartConfig
from softtokens.config.thought import PAPER_SETTINGS

FOLDER = Path(__file__).parents[2] / "recipes/study"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("study")


@pytest.fixture
def tables(study, monkeypatch, tmp_path):
    module = importlib.import_module("table")
    monkeypatch.setattr(module, "HERE", tmp_path)
    (tmp_path / "results").mkdir()
    return module


def write(folder, name, right, *, samples=32, validation=None):
    counts = {setting: 1 if setting.endswith("greedy") else samples for setting in PAPER_SETTINGS}
    result = {
        "samples": counts,
        "right": {setting: [round(share * counts[setting]) for share in right] for setting in PAPER_SETTINGS},
        "facts": {"accuracy": {"value": 0.875}, "nll_per_token": {"value": 0.5}},
        "training": {"validation": validation or {}},
    }
    (folder / "results" / f"{name}.json").write_text(json.dumps(result))


def test_every_arm_is_a_training_run(study):
    for name, arm in study.ARMS.items():
        if arm.flags is None:
            continue
        config, _ = parse("train", [*study.COMMON.split(), *arm.flags.split()])
        assert name.startswith(config.thought.mode)
        assert config.problems_per_step * config.group_size == 256, name  # equal rollouts in every arm
        assert f"{config.thought.mode}-sample" in arm.settings


@pytest.mark.parametrize("mode", MODES)
def test_the_main_arms_are_the_quickstart_s_runs(study, mode):
    config, _ = parse("train", [*study.COMMON.split(), *study.ARMS[mode].flags.split()])
    quickstart = train_config(mode, Path("runs"), QuickstartConfig())
    assert dataclasses.replace(config, output=quickstart.output) == quickstart


def test_tables_of_made_up_results(tables, tmp_path):
    """Base solves a quarter of each problem's samples; soft training solves half in seed 0, all in seed 1."""
    problems = 40
    for seed, share in ((0, 0.5), (1, 1.0)):
        write(tmp_path, f"base-s{seed}", [0.25] * problems)
        write(tmp_path, f"soft-s{seed}", [share] * problems, validation={"10": 0.5, "20": share})
        write(tmp_path, f"hard-s{seed}", [1.0] * problems, validation={"10": 1.0, "20": 1.0})
    results = tables.read()
    assert "| soft | 2 |" in tables.settings_table(results) and "87.5 |" in tables.settings_table(results)
    arms = tables.arms_table(results)
    assert "| soft | 50, 75 | +50.0 [+25.0, +75.0] | +25.0, +75.0 |" in arms
    assert "hard-sample | -25.0 [-50.0, +0.0] (2 seeds) |" in tables.claims_table(results)


def test_tables_take_their_places_in_the_page(tables, tmp_path, monkeypatch):
    """Twice, so that empty and full places are both met; the rest of the page stays."""
    write(tmp_path, "base-s0", [0.25] * 10)
    page = tmp_path / "findings.md"
    places = "".join(f"before {name}\n<!-- table {name} -->\n<!-- end -->\n" for name in tables.TABLES)
    page.write_text(f"{places}last\n")
    monkeypatch.setattr(tables, "FINDINGS", page)
    monkeypatch.setattr("sys.argv", ["table.py", "--write"])
    tables.main()
    first = page.read_text()
    tables.main()
    assert page.read_text() == first and first.endswith("<!-- end -->\nlast\n") and "| base | 1 |" in first
    assert all(f"before {name}\n<!-- table {name} -->\n| " in first for name in tables.TABLES)
