"""A model is evaluated the way it was trained, whatever its family of thoughts."""

import json
import logging

import pytest

from softtokens import cli
from softtokens.config.task import TaskConfig
from softtokens.config.thought import ThoughtConfig
from softtokens.config.train import TrainConfig
from softtokens.evaluate.results import read_results
from softtokens.evaluate.run import evaluate
from softtokens.files import read_json
from softtokens.thoughts import Gaussian, LogitGaussian
from softtokens.train.loop import train
from softtokens.types import UserError

THOUGHTS = {
    "top-k": ThoughtConfig("soft", gamma=0.7, noise="top-k", top_k=3),
    "mild": ThoughtConfig("fuzzy", tau=0.1, gamma=0.5),
}


@pytest.fixture(scope="module")
def runs(model_folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    file = root / "train.jsonl"
    file.write_text('{"question": "Tom has 4 apples.", "answer": "4"}\n' * 2)
    task = TaskConfig(name=str(file), template="User: {question} Assistant:", grader="exact")
    sizes = {"steps": 1, "group_size": 2, "max_thought_steps": 3, "max_answer_tokens": 2, "validate_every": 0}
    for name, thought in THOUGHTS.items():
        output = str(root / name)
        train(TrainConfig(output, model=str(model_folder), thought=thought, task=task, device="cpu", **sizes))
    return root


@pytest.fixture
def built(monkeypatch):
    """The thoughts that an evaluation builds."""
    from softtokens.evaluate import run

    made, build = [], run.build_thought
    monkeypatch.setattr(run, "build_thought", lambda *a, **o: made.append(build(*a, **o)) or made[-1])
    return made


def test_each_model_thinks_as_it_was_trained(config_for, model_folder, runs, built, random_policy, caplog, tmp_path):
    models = (f"base={model_folder}", str(runs / "top-k"), f"mild={runs / 'mild'}/checkpoints/last")
    config = config_for(models=models, settings=("soft-greedy", "as-trained"), profile=3, traces=2)
    heard = []
    with caplog.at_level(logging.INFO, "softtokens.evaluate.run"):
        root = evaluate(config, listener=heard.append)
    assert [r.message for r in caplog.records if "as-trained" in r.message] == [
        "no training run belongs to base, so there is nothing to evaluate as-trained"
    ]
    results = read_results(root)
    assert results.cells == ["soft-greedy", "as-trained"]
    assert {m for m, _, cell in results.summaries if cell == "as-trained"} == {"top-k", "mild"}
    rms = random_policy.embedding_rms
    assert LogitGaussian(0.5, 0.7, 3) in built and Gaussian(0.1, 0.5 * rms) in built
    assert heard[-1].done == heard[-1].total == 5 * (3 + 2 * 3)
    for name, thought in THOUGHTS.items():
        summary = results.summaries[name, "problems", "as-trained"]
        assert (summary["setting"], summary["samples"]) == ("as-trained", 3)
        assert (summary["temperature"], summary["gamma"]) == (thought.temperature, thought.gamma)
        expected = dict(vars(thought), tau=thought.temperature)
        assert summary["thought"] == expected
        profile = read_json(root / f"cells/{name}/problems/as-trained/profile.json")
        assert profile["temperature"] == thought.temperature and profile["generations"] == 3
        assert 0 < profile["overall"]["noise_ratio"] < 100
        traced = (root / f"traces/{name}/problems/as-trained.jsonl").read_text().splitlines()
        assert len(traced) == 2 and min(json.loads(traced[0])["step_columns"]["noise"]) > 0
    assert results.summaries["base", "problems", "soft-greedy"]["thought"]["mode"] == "soft"

    file = tmp_path / "compared.json"
    assert cli.main(["compare", str(root), "--against", "top-k", "--output", str(file)]) == 0
    compared = {(c["model"], c["cell"]) for c in read_json(file)["comparisons"]}
    assert compared == {("base", "soft-greedy"), ("mild", "soft-greedy"), ("mild", "as-trained")}

    page = tmp_path / "report.html"
    assert cli.main(["report", str(root), str(runs), "--output", str(page)]) == 0
    text = page.read_text()
    assert text.count(">as-trained<") >= 2 and "Is it soft?" in text


def test_nothing_to_evaluate(config_for, model_folder, runs):
    with pytest.raises(UserError, match="no training run belongs to random; give run directories"):
        evaluate(config_for(settings=("as-trained",)))
    evaluate(config_for(settings=("as-trained",), choices=("facts",), choices_limit=2))  # choices are enough


def test_a_run_of_another_version_is_refused(config_for, runs, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoints").symlink_to(runs / "mild" / "checkpoints")
    config = read_json(runs / "mild" / "config.json")
    config["thought"]["mode"] = "sleepy"
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json: mode is 'sleepy'; it must be one of hard, soft, fuzzy"):
        evaluate(config_for(models=(str(run),), settings=("as-trained",)))


def test_generate_as_trained(model_folder, runs, capsys, monkeypatch):
    from softtokens.cli import generate

    made, build = [], generate.build_thought
    monkeypatch.setattr(generate, "build_thought", lambda *a, **o: made.append(build(*a, **o)) or made[-1])
    flags = ["generate", "Tom", "--device", "cpu", "--setting", "as-trained", "--max-thought-steps", "3", "--trace"]
    assert cli.main([*flags, "--model", str(runs / "top-k")]) == 0
    assert cli.main([*flags, "--model", f"{runs / 'top-k'}@1", "--gamma", "0.2"]) == 0
    assert made == [LogitGaussian(0.5, 0.7, 3), LogitGaussian(0.5, 0.2, 3)]
    assert "mixtures (weights at temperature 0.5;" in capsys.readouterr().out
    assert cli.main([*flags, "--model", str(model_folder)]) == 2
    assert "setting is as-trained, but no training run belongs to" in capsys.readouterr().err
