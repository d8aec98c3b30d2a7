"""Every benchmark runs at sizes where its figures mean nothing, and the hand-written competitor is the same model."""

import json
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Benchmarks are not part of the package: they run from the root of the repository."""
    monkeypatch.syspath_prepend(str(ROOT))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


@pytest.mark.slow
@pytest.mark.parametrize("idea", ["rollout", "streamed", "memory", "growth"])
def test_each_idea_runs_dry_and_writes_its_rows(idea, tmp_path):
    from benchmarks.engine.__main__ import main

    file = main(["--dry-run", "--only", idea, "--output", str(tmp_path)])
    rows = json.loads(file.read_text())["rows"]
    assert {row["idea"] for row in rows} == {idea}
    # below a core's noise a power may be anything
    assert all(row["ratio"] > 0 for row in rows if idea != "growth")
    assert all(len(row["samples"]) >= 1 and 0 <= row["busy"] <= 1 for row in rows)
    assert (tmp_path / "engine.png").stat().st_size > 1000
    if idea == "growth":
        whole, rest = (rows[i]["samples"]["seconds"] for i in (0, 1))
        assert all(0 < without < taken for without, taken in zip(rest, whole, strict=True)), "attention takes time"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # raised by TRL and its imports
def test_whole_steps_run_dry_beside_trl(tmp_path):
    pytest.importorskip("trl", reason="the anchor extra is not installed", exc_type=ImportError)
    from benchmarks.engine.__main__ import main

    rows = json.loads(main(["--dry-run", "--only", "step", "--output", str(tmp_path)]).read_text())["rows"]
    assert {row["compared_with"] for row in rows} == {"TRL", "hard"}


@pytest.mark.slow
def test_rows_of_ideas_that_were_not_measured_again_stay(tmp_path):
    from benchmarks.engine.__main__ import main

    main(["--dry-run", "--only", "streamed", "--output", str(tmp_path)])
    rows = json.loads(main(["--dry-run", "--only", "memory", "--output", str(tmp_path)]).read_text())["rows"]
    assert [row["idea"] for row in rows].count("memory") == 2
    assert {row["idea"] for row in rows} == {"streamed", "memory"}


def test_gpu_runs_dry(tmp_path):
    from benchmarks.gpu import main

    report = main(["--dry-run", "--output", str(tmp_path / "gpu.json")])
    for mode in ("hard", "soft"):
        assert 0 < report[f"{mode}, float32: decode, share of the copying speed"] < 1
        assert 0 < report[f"{mode}, float32: replay, share of the product's speed"] < 1
    assert json.loads((tmp_path / "gpu.json").read_text())["seconds of all this"] > 0


@pytest.mark.slow
def test_memory_is_that_of_a_fresh_process():
    """100 MB more in the child take 200 MB more (the work holds two copies), whatever this process holds."""
    from benchmarks.engine.fresh import peak_memory

    small, large = (peak_memory("tests.benchmarks.fill:fill", [n]) for n in (10_000_000, 110_000_000))
    assert large["peak"] - small["peak"] == pytest.approx(200e6, rel=0.05)
    assert large["peak"] - large["before"] == pytest.approx(220e6, rel=0.05)
    assert large["peak"] < 300e6  # measured in a child: this process holds torch


@torch.no_grad()
def test_the_handwritten_model_is_the_same_model():
    from benchmarks.engine.handwritten import Handwritten
    from benchmarks.engine.subject import DRY, model_of

    model = model_of(DRY, 512)
    ids = torch.randint(5, 500, (3, 12), generator=torch.Generator().manual_seed(0))
    hand = Handwritten(model, 3, 16, compiles=False)
    expected = model(ids).logits
    torch.testing.assert_close(hand.logits(hand._prefill(ids[:, :10])), expected[:, 9], rtol=1e-4, atol=1e-4)
    for position in (10, 11):
        state = hand.body(hand.table[ids[:, position]], torch.tensor([position]), position + 1)
        torch.testing.assert_close(hand.logits(state), expected[:, position], rtol=1e-4, atol=1e-4)


def test_medians_ratios_and_targets():
    from benchmarks.engine.measure import compared

    seconds = {"we": [1.0, 2.0, 9.0], "they": [8.0, 6.0, 7.0]}
    names = {"idea": "x", "what": "y", "clock": "z", "busy": 0.0}
    faster = compared(seconds, "we", "they", at_least=3.0, work=10, unit="t/s", **names)
    assert (faster.ratio, faster.reached, faster.ours) == (3.5, True, "10 / 5 t/s")
    longer = compared(seconds, "they", "we", at_most=3.0, **names)
    assert (longer.ratio, longer.reached) == (3.5, False)
    assert longer.share_of_target == pytest.approx(3 / 3.5)
    assert compared(seconds, "we", "they", **names).reached is None


@pytest.mark.slow
def test_plans_and_processes_run_dry(tmp_path):
    from benchmarks.scaling.__main__ import main

    rows = json.loads(main(["--dry-run", "--output", str(tmp_path)]).read_text())["rows"]
    assert [row["idea"] for row in rows].count("speed") == 3
    assert all(row["ratio"] > 0 for row in rows)
