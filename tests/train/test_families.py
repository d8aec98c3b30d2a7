"""Every family of the table works in every command: nothing but its file and its line knows it."""

import json

import pytest
import torch
from safetensors.torch import load_file

from softtokens import cli
from softtokens.config.thought import FAMILIES

# hard, soft and fuzzy have tests of their own
OTHERS = [mode for mode, family in FAMILIES.items() if family.is_drawn and mode not in ("hard", "soft", "fuzzy")]
QUICK = ("--validate-every", "2", "--warmup-steps", "0", "--schedule", "constant", "--steps", "2")


def weights_in(run):
    return load_file(run / "checkpoints/last/model.safetensors")


@pytest.mark.parametrize("mode", OTHERS)
def test_trained_resumed_evaluated_and_shown(mode, flags, tmp_path, text_rewards, data_file, capsys):
    run, whole, out = tmp_path / "run", tmp_path / "whole", tmp_path / "out"
    train = [*QUICK, "--mode", mode, "--learning-rate", "0.01"]
    assert cli.main(flags(whole, *train)) == 0
    assert cli.main(flags(run, *train, "--steps", "1")) == 0
    before = weights_in(run)
    assert cli.main(flags(run, *train, "--resume")) == 0
    assert all(torch.equal(x, weights_in(whole)[name]) for name, x in weights_in(run).items())
    assert any(not torch.equal(x, before[name]) for name, x in weights_in(run).items())
    metrics = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert all(m["mismatch/thought_log_prob"] < 1e-4 and m["grad_norm/thought"] > 0 for m in metrics[:1])

    task = ["--task", str(data_file), "--template", "User: {question}", "--grader", "exact", "--device", "cpu"]
    task += ["--max-thought-steps", "4", "--max-answer-tokens", "3", "--samples", "2", "--profile", "2"]
    cells = (f"{mode}-sample", "as-trained")
    command = ["evaluate", "--models", str(run), *task, "--traces", "1", "--settings", *cells, "--output", str(out)]
    assert cli.main(command) == 0
    summaries = [json.loads((out / "cells/run/problems" / cell / "summary.json").read_text()) for cell in cells]
    assert [(s["thought"]["mode"], s["gamma"], s["temperature"]) for s in summaries] == [(mode, None, 1.0)] * 2
    profiles = [json.loads((out / "cells/run/problems" / cell / "profile.json").read_text()) for cell in cells]
    assert profiles[0]["overall"] == profiles[1]["overall"]  # the same numbers name the same thoughts

    capsys.readouterr()
    for setting in cells:
        show = ["generate", "Tom", "--model", str(run), "--setting", setting, "--trace", "--device", "cpu"]
        assert cli.main([*show, "--max-thought-steps", "3"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("mixtures (weights") == 2 and shown.count("3 thought steps") == 2
    assert cli.main(["plan", "--on", "h100", "--mode", mode]) == 0
    assert cli.main(["report", str(run), str(out), "--output", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert all(cell in page for cell in cells)


def test_their_signal_is_measured_beside_that_of_hard(model_folder, data_file, tmp_path, text_rewards, capsys):
    flags = ["signal", "--model", str(model_folder), "--task", str(data_file), "--template", "User: {question}"]
    flags += ["--grader", "exact", "--group-size", "4", "--max-thought-steps", "4", "--max-answer-tokens", "3"]
    flags += ["--batches", "3", "--modes", "hard", *OTHERS, "--device", "cpu", "--output", str(tmp_path / "signal")]
    assert cli.main(flags) == 0
    measured = json.loads((tmp_path / "signal/signal.json").read_text())["settings"]
    assert [setting["thought"]["mode"] for setting in measured] == ["hard", *OTHERS]
    assert len({setting["terms"]["thought"]["norm"] for setting in measured}) == len(measured)
    names = {setting["name"] for setting in measured}
    assert {"hard", "multiplex, width 3", "gumbel, top k 5, weight temperature 0.1"} <= names


def test_soft_thinking_is_evaluated_and_never_trained(flags, tmp_path, data_file, model_folder, capsys):
    task = ["--task", str(data_file), "--template", "User: {question}", "--grader", "exact", "--device", "cpu"]
    task += ["--max-thought-steps", "4", "--max-answer-tokens", "3", "--profile", "2", "--traces", "1"]
    command = ["evaluate", "--models", f"base={model_folder}", *task, "--settings", "soft-thinking-greedy"]
    assert cli.main([*command, "--output", str(tmp_path / "out")]) == 0
    cell = tmp_path / "out/cells/base/problems/soft-thinking-greedy"
    summary, profile = (json.loads((cell / f"{name}.json").read_text()) for name in ("summary", "profile"))
    assert (summary["samples"], summary["thought"]["mode"]) == (1, "soft-thinking")
    assert profile["overall"]["noise_ratio"] == 0 and profile["overall"]["distance_to_token"] > 0.01
    assert cli.main(flags(tmp_path / "run", "--mode", "soft-thinking")) == 2
    assert "soft-thinking draws nothing, so it has no likelihood" in " ".join(capsys.readouterr().err.split())
