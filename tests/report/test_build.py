"""The report of complete and damaged folders."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from softtokens.config.commands import ReportConfig
from softtokens.report.build import report
from softtokens.types import UserError

from .conftest import PROBLEMS, SAMPLES, summary, write, write_evaluation, write_lines, write_run

SECTIONS = (
    "overview",
    "training",
    "solving",
    "softness",
    "ablations",
    "elsewhere",
    "settings",
    "diagnostics",
    "traces",
)


def visible_text(page: str) -> str:
    without = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", without).split())


def figures_of(page: str) -> dict:
    (content,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    return json.loads(content)["figures"]


def cell_of(page: str, table: str, row: str, column: str) -> str:
    """The text of a table's cell, tags removed."""
    (markup,) = re.findall(rf'<figure id="{table}".*?</figure>', page, flags=re.DOTALL)
    rows = [re.findall(r"<t[hd].*?</t[hd]>", part, flags=re.DOTALL) for part in markup.split("</tr>")]
    texts = [[" ".join(re.sub(r"<[^>]+>", " ", entry).split()) for entry in entries] for entries in rows]
    return next(entries for entries in texts if entries and entries[0].startswith(row))[texts[0].index(column)]


def test_a_quickstart_folder_becomes_one_page(page, quickstart_folder):
    text = page(quickstart_folder)
    assert text.startswith("<!doctype html>")
    assert all(f'<section id="{name}">' in text for name in SECTIONS)
    assert "Not measured" not in visible_text(text).replace("Not measured: other temperatures", "")
    assert len(text) < 5e6


def test_the_verdict_shows_what_was_measured(page, quickstart_folder):
    text = page(quickstart_folder)
    summary = json.loads((quickstart_folder / "evaluation/cells/hard/arithmetic/soft-sample/summary.json").read_text())
    first, last = summary["pass@k"]["1"], summary["pass@k"][str(SAMPLES)]
    shown = cell_of(text, "verdict", "hard", "soft-sample")
    assert f"{100 * first['value']:.1f}" in shown
    assert f"[{100 * first['low']:.1f}, {100 * first['high']:.1f}] · @{SAMPLES} {100 * last['value']:.0f}" in shown


def test_one_cell_is_the_best_and_chance_is_told(page, tmp_path):
    """Solved by hard: everything; by soft: everything but two problems, which may be luck; by base: nothing."""
    folder = write_evaluation(tmp_path / "eval", ("base", "hard", "soft"), cells=("hard-greedy",), rest=False)
    for model, right in {"base": [0] * 30, "hard": [1] * 30, "soft": [1] * 28 + [0] * 2}.items():
        write(folder / f"cells/{model}/arithmetic/hard-greedy/summary.json", summary(model, "hard-greedy", right, 1))
    text = page(folder)
    assert cell_of(text, "verdict", "hard", "hard-greedy").startswith("● 100.0")
    assert cell_of(text, "verdict", "soft", "hard-greedy").startswith("○ 93.3")
    assert cell_of(text, "verdict", "base", "hard-greedy").startswith("0.0")
    assert cell_of(text, "differences", "hard-greedy", "hard − base").startswith("▲ +100.0")
    assert cell_of(text, "differences", "hard-greedy", "soft − hard").startswith("−6.7")


def test_the_best_in_words_is_the_best_of_the_table(page, tmp_path):
    folder = write_evaluation(tmp_path / "eval", ("base", "hard"), cells=("hard-greedy", "soft-greedy"), rest=False)
    for model, right in {"base": [0] * 30, "hard": [1] * 30}.items():
        for cell in ("hard-greedy", "soft-greedy"):
            write(folder / f"cells/{model}/arithmetic/{cell}/summary.json", summary(model, cell, right, 1))
    text = page(folder)
    assert cell_of(text, "verdict", "hard", "hard-greedy").startswith("● 100.0")
    assert "hard tested hard-greedy (and 1 more alike) solves most at the first attempt: 100.0 %" in visible_text(text)


def test_the_papers_claims_are_decided_by_paired_differences(page, tmp_path):
    """Solved hard-greedy by hard: 30 problems; by soft: 24, and 12 with its own greedy thoughts. Soft forgets less."""
    cells = ("hard-greedy", "hard-sample", "soft-greedy")
    folder = write_evaluation(tmp_path / "eval", ("base", "hard", "soft"), cells=cells)
    for model, cell, right in (("hard", 0, 30), ("soft", 0, 24), ("soft", 2, 12)):
        each = [1] * right + [0] * (30 - right)
        write(folder / f"cells/{model}/arithmetic/{cells[cell]}/summary.json", summary(model, cells[cell], each, 1))
    for model, nll in (("hard", 1.0), ("soft", 0.75)):
        file = folder / f"choices/{model}/facts.json"
        each = {"per_item": {"nll_per_token": [nll] * 4}, "sha256": "a"}
        write(file, json.loads(file.read_text()) | each)
    text = page(folder)
    assert cell_of(text, "claims", "As good as hard training at pass@1", "soft").startswith("−20.0")
    assert cell_of(text, "claims", "Best used with hard thoughts", "soft").startswith("+40.0")
    assert cell_of(text, "claims", "Forgets less", "soft").startswith("−0.2500")
    assert f"Better than hard training at pass@{SAMPLES}" in visible_text(text)
    assert "Compared with hard training, pass@1: soft training −20.0 points" in visible_text(text)


def test_without_a_hard_arm_no_claim_can_be_decided(page, tmp_path):
    folder = write_evaluation(tmp_path / "eval", ("base", "soft"), cells=("hard-greedy", "soft-greedy"))
    assert 'id="claims"' not in page(folder)


@pytest.mark.parametrize(("items", "shown"), [("a", "▼ −0.5000"), ("b", "–")])
def test_only_the_same_items_are_paired(page, tmp_path, items, shown):
    folder = write_evaluation(tmp_path / "eval", ("base", "hard"), cells=("hard-greedy",))
    for model, nll, sha256 in (("base", 1.0, "a"), ("hard", 0.5, items)):
        file = folder / f"choices/{model}/facts.json"
        each = {"per_item": {"nll_per_token": [nll] * 4}, "sha256": sha256}
        write(file, json.loads(file.read_text()) | each)
    text = page(folder)
    assert cell_of(text, "out-of-domain", "hard", "facts NLL − base").startswith(shown)
    assert "Items: facts 50." in visible_text(text)


def test_figures_hold_the_numbers_of_the_files(page, quickstart_folder):
    figures = figures_of(page(quickstart_folder))
    summary = json.loads((quickstart_folder / "evaluation/cells/soft/arithmetic/fuzzy-sample/summary.json").read_text())
    (panel,) = (p for p in figures["pass-at-k-arithmetic"]["panels"] if p["title"] == "fuzzy-sample")
    (line,) = (s for s in panel["series"] if s["name"] == "soft")
    assert line["x"] == [1, 2, 4, 8]
    assert line["y"] == pytest.approx([summary["pass@k"][str(int(k))]["value"] for k in line["x"]], rel=1e-5)
    profile = json.loads((quickstart_folder / "evaluation/cells/soft/arithmetic/fuzzy-sample/profile.json").read_text())
    (panel,) = (p for p in figures["entropy-arithmetic"]["panels"] if p["title"] == "fuzzy-sample")
    (line,) = (s for s in panel["series"] if s["name"] == "soft")
    assert line["y"] == pytest.approx(profile["entropy"], rel=1e-5)
    assert line["low"] == pytest.approx(profile["entropy_low"], rel=1e-5)


def test_a_long_run_is_thinned_to_what_a_screen_shows(page, tmp_path):
    figures = figures_of(page(write_run(tmp_path / "run", steps=1700)))
    for series in figures["training-curves"]["panels"][0]["series"]:
        assert 250 < len(series["x"]) == len(series["y"]) <= 501
        assert (series["x"][0], series["x"][-1]) == (1, 1700)


def test_a_grid_of_values_becomes_a_curve(page, tmp_path):
    """The paper's own value is one of the points. Where temperature and noise both vary, each is shown at a fixed value
    of the other."""
    cells = (
        "hard-sample",
        "hard-sample_T=0.6",
        "soft-sample",
        "soft-sample_gamma=1.0",
        "soft-sample_tau=0.3_gamma=1.0",
    )
    figures = figures_of(page(write_evaluation(tmp_path / "eval", ("base",), cells=cells)))
    panels = {panel["title"]: panel["series"][0]["x"] for panel in figures["grid-arithmetic"]["panels"]}
    assert panels == {
        "hard-sample, pass@1": [0.6, 1.0],
        "hard-sample, pass@8": [0.6, 1.0],
        "soft-sample, τ 0.5, pass@1": [0.33, 1.0],
        "soft-sample, τ 0.5, pass@8": [0.33, 1.0],
        "soft-sample, γ 1, pass@1": [0.3, 0.5],
        "soft-sample, γ 1, pass@8": [0.3, 0.5],
    }


def test_runs_that_differ_in_their_noise_become_a_curve(page, tmp_path):
    for gamma in (0.1, 1.0):
        write_run(tmp_path / f"soft-{gamma}", thought={"mode": "soft", "tau": None, "gamma": gamma})
    write_evaluation(tmp_path / "eval", ("base", "soft-0.1", "soft-1.0"), runs=tmp_path)
    (panel,) = figures_of(page(tmp_path))["trained-arithmetic"]["panels"]
    assert {tuple(series["x"]) for series in panel["series"]} == {(0.1, 1.0)}


@pytest.mark.parametrize(
    ("right", "verdict"),
    [
        ([0] * PROBLEMS, "0.0"),
        ([SAMPLES] * PROBLEMS, "100.0"),
        ([3], "37.5"),
    ],
    ids=["all wrong", "all right", "one problem"],
)
def test_extreme_results(page, tmp_path, right, verdict):
    folder = write_evaluation(tmp_path / "eval", ("base", "hard"), cells=("hard-sample",))
    for model in ("base", "hard"):
        write(
            folder / f"cells/{model}/arithmetic/hard-sample/summary.json", summary(model, "hard-sample", right, SAMPLES)
        )
    text = page(folder)
    assert verdict in cell_of(text, "verdict", "hard", "hard-sample")
    assert cell_of(text, "differences", "hard-sample", "hard − base").startswith("+0.0")


def test_zero_samples_and_values_that_are_missing(page, tmp_path):
    folder = write_evaluation(tmp_path / "eval", ("base", "hard"), cells=("hard-sample",))
    empty = {"samples": 0, "problems": 0, "right": [], "problem_ids": [], "pass@k": {}, "verdicts": {}, "stops": None}
    file = folder / "cells/hard/arithmetic/hard-sample/summary.json"
    write(file, json.loads(file.read_text()) | empty)
    text = page(folder)
    assert cell_of(text, "verdict", "hard", "hard-sample") == "–"
    assert "There are no samples in this cell" in visible_text(text)
    assert all(f'<section id="{name}">' in text for name in SECTIONS)


@pytest.mark.parametrize("value", [None, "NaN", "much", [], {"a": 1}, True, 1e308])
def test_metrics_that_are_no_numbers(page, tmp_path, value):
    folder = write_run(tmp_path / "run")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    keys = [key for key in rows[0] if key != "step"]
    write_lines(folder / "metrics.jsonl", [row | {key: value for key in keys} for row in rows])
    text = visible_text(page(folder))
    assert "What was trained" in text
    assert "nan" not in text.lower().split()


def test_every_file_cut_in_half_at_once(page, quickstart_folder):
    """Whatever a crash leaves behind, the report is written and names what it could not read."""
    for file in sorted(quickstart_folder.rglob("*.json*")):
        if file.name != "evaluation.json":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    text = page(quickstart_folder)
    assert all(f'<section id="{name}">' in text for name in SECTIONS)
    shown = visible_text(text)
    assert "is damaged" in shown
    assert "ends in the middle of a line" in shown


@pytest.mark.parametrize("value", [None, 7, "x", [], [1], {"a": {}}, [{"name": 3}]])
def test_files_of_another_shape(page, tmp_path, value):
    """Each key of each file in turn holds something else than it should."""
    folder = write_evaluation(tmp_path / "eval", ("base", "soft"), cells=("soft-sample",))
    for name in ("cells/soft/arithmetic/soft-sample/summary.json", "cells/soft/arithmetic/soft-sample/profile.json"):
        content = json.loads((folder / name).read_text())
        write(folder / name, {key: value for key in content})
    (trace,) = (folder / "traces/soft/arithmetic").glob("*.jsonl")
    rows = [json.loads(line) for line in trace.read_text().splitlines()]
    columns = {key: value for key in rows[0]["step_columns"]}
    write_lines(trace, [{key: value for key in rows[0]}, rows[0] | {"step_columns": columns}])
    for name in ("choices/soft/facts.json", "preservation/soft.json"):
        write(folder / name, {key: value for key in json.loads((folder / name).read_text())})
    text = page(folder)
    assert "base" in text
    assert all(f'<section id="{name}">' in text for name in SECTIONS)


def test_runs_of_different_tasks_are_drawn_apart(page, tmp_path):
    write_run(tmp_path / "a", "hard")
    write_run(tmp_path / "b", "soft", task={"name": "gsm8k"})
    text = page(tmp_path)
    panels = [panel["title"] for panel in figures_of(text)["training-curves"]["panels"]]
    assert "Reward in training: tiny, arithmetic" in panels
    assert "Reward in training: tiny, gsm8k" in panels
    assert "their curves do not compare" in visible_text(text)


def test_a_run_alone_and_an_evaluation_alone(page, tmp_path):
    alone = visible_text(page(write_run(tmp_path / "run")))
    assert "Not measured: no evaluation was given" in alone
    alone = visible_text(page(write_evaluation(tmp_path / "eval")))
    assert "Not measured: no training run was given" in alone


def test_the_paper_stands_beside_its_own_model(page, tmp_path):
    folder = write_evaluation(tmp_path / "eval", ("base", "soft"), task="gsm8k")
    content = json.loads((folder / "evaluation.json").read_text())
    llama = "meta-llama/Llama-3.2-3B-Instruct"
    content["models"][0]["path"] = content["models"][1]["trained"]["base"] = llama
    content["models"][1]["trained"]["task"] = "gsm8k"
    write(folder / "evaluation.json", content)
    text = page(folder)
    assert cell_of(text, "settings-gsm8k", "paper: gsm8k-soft", "HG@1") == "77.2 ± 0.9"
    assert f"all of its problems (here {PROBLEMS})" in visible_text(text)
    content["tasks"][0]["split"] = "train"
    write(folder / "evaluation.json", content)
    assert "paper: " not in visible_text(page(folder))
    shutil.rmtree(folder)
    assert "paper: " not in visible_text(page(write_evaluation(tmp_path / "eval", task="gsm8k")))


def test_where_the_page_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, other = str(write_run(tmp_path / "run")), str(write_run(tmp_path / "other"))
    assert report(ReportConfig(runs=(run,))) == tmp_path / "run" / "report.html"
    assert report(ReportConfig(runs=(run, other))).resolve() == tmp_path / "report.html"
    with pytest.raises(UserError, match="which cannot be written"):
        report(ReportConfig(runs=(run,), output=str(tmp_path / "run/config.json/x.html")))


def test_the_page_loads_nothing(page, quickstart_folder):
    """No address outside the page stands where a browser would fetch it."""
    markup = re.sub(r"<(script|style)\b.*?</\1>", "", page(quickstart_folder), flags=re.DOTALL)
    assert re.findall(r'(?:src|href|action|srcset)\s*=\s*"(?!#|data:)', markup) == []
    assert "default-src &#39;none&#39;" in markup
