"""The six settings: counts by hand, and what must not matter to them."""

import json

import numpy as np
import pytest

from softtokens.config import ALL_SETTINGS, EvaluateConfig, TaskConfig, ThoughtConfig
from softtokens.evaluate import run
from softtokens.evaluate.accuracy import accuracy
from softtokens.evaluate.run import evaluate, evaluate_setting
from softtokens.rollout.limits import Limits
from softtokens.thoughts import build_thought
from softtokens.types import Problem, UserError, Verdict

QUESTIONS = ["Tom has 4 apples.", "3", "Tom has 12 apples. so. User", "so. 12", "User has 4."]
PROBLEMS = [Problem(10 * i, f"User: {q} Assistant:", str(i)) for i, q in enumerate(QUESTIONS)]
LIMITS = {"max_thought_steps": 6, "max_answer_tokens": 4}


class ByText:
    """Judges any text, so that verdicts differ between samples of a model that knows nothing."""

    def grade(self, completions, answers):
        judgements = [Verdict.RIGHT, Verdict.WRONG, Verdict.NO_ANSWER, Verdict.WRONG]
        return [judgements[(sum(map(ord, c)) + int(a)) % 4] for c, a in zip(completions, answers, strict=True)]

    def close(self):
        pass


@pytest.fixture(scope="module")
def random_policy(make_policy):
    return make_policy("llama-untied")


def measure(policy, setting, problems=PROBLEMS, **options):
    config = EvaluateConfig(samples=5, gamma=0.5, **LIMITS, **options)
    result, samples = evaluate_setting(policy, problems, setting, config, ByText())
    del result["seconds"]
    return result, samples


@pytest.mark.parametrize("setting", ALL_SETTINGS)
def test_batches_do_not_matter(random_policy, setting):
    expected = measure(random_policy, setting)
    for rows in (1, 3, 8, 256):
        assert measure(random_policy, setting, rows_per_batch=rows) == expected
    assert measure(random_policy, setting) == expected


@pytest.mark.parametrize("setting", ["hard-sample", "soft-sample"])
def test_samples_depend_on_the_problem_and_not_on_its_neighbours(random_policy, setting):
    _, samples = measure(random_policy, setting)
    result, alone = measure(random_policy, setting, problems=PROBLEMS[2:3])
    assert alone == [sample for sample in samples if sample["problem"] == 20]
    assert result["problems"] == 1


def test_seeds_matter_to_samples_and_not_to_greedy_settings(random_policy):
    def texts(setting, seed):
        return [sample["thoughts"] + sample["answer"] for sample in measure(random_policy, setting, seed=seed)[1]]

    for setting in ALL_SETTINGS:
        assert (texts(setting, 0) == texts(setting, 1)) == setting.endswith("greedy"), setting


@pytest.mark.parametrize("setting", ["soft-greedy", "soft-sample"])
def test_summary_by_hand(random_policy, setting):
    result, samples = measure(random_policy, setting)
    per_problem = 1 if setting.endswith("greedy") else 5
    assert [(s["problem"], s["sample"]) for s in samples] == [(p.id, n) for p in PROBLEMS for n in range(per_problem)]
    right = [sum(s["verdict"] == "right" for s in samples if s["problem"] == p.id) for p in PROBLEMS]
    assert result["right"] == right
    assert result["samples"] == per_problem
    assert result["pass@k"]["1"] == pytest.approx(np.mean(right) / per_problem)
    assert result["pass@k"][str(per_problem)] == pytest.approx(np.mean(np.array(right) > 0))
    assert list(result["pass@k"]) == list(result["interval"]) == (["1"] if per_problem == 1 else ["1", "2", "4", "5"])
    for verdict in Verdict:
        share = sum(s["verdict"] == verdict.value for s in samples) / len(samples)
        assert result["verdicts"][verdict.value] == pytest.approx(share)
    assert result["mean_thought_length"] == pytest.approx(np.mean([s["thought_length"] for s in samples]))
    assert sum(result["stops"].values()) == pytest.approx(1)


def test_greedy_accuracy_is_that_of_the_greedy_setting(random_policy):
    """Validation in training and the greedy setting of evaluation are the same thing."""
    for mode in ("hard", "soft", "fuzzy"):
        thought = build_thought(ThoughtConfig(mode=mode), random_policy.embedding_rms, greedy=True)
        share = accuracy(random_policy, thought, PROBLEMS, Limits(6, 4, 0.0), ByText(), seed=0)
        assert share == measure(random_policy, f"{mode}-greedy")[0]["pass@k"]["1"]


@pytest.fixture
def config_for(random_policy, tmp_path):
    random_policy.save(tmp_path / "model")
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps({"question": q, "answer": i}) + "\n" for i, q in enumerate(QUESTIONS)))

    def make(**options):
        task = TaskConfig(name=str(file), template="User: {question} Assistant:", grader="exact")
        return EvaluateConfig(model=str(tmp_path / "model"), task=task, device="cpu", samples=3, **LIMITS, **options)

    return make


def test_results_and_samples_are_written(config_for, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "grader_of", lambda task: ByText())
    heard = []
    config = config_for(output=str(tmp_path / "out"), settings=("hard-greedy", "fuzzy-sample"), choices="facts")
    results = evaluate(config, listener=lambda *event: heard.append(event))
    written = json.loads((tmp_path / "out/results.json").read_text())
    assert written == json.loads(json.dumps(results))
    assert list(written["settings"]) == ["hard-greedy", "fuzzy-sample"]
    assert written["config"]["gamma"] == 0.33
    assert 0 <= written["choices"]["accuracy"] <= 1
    assert written["choices"]["nll_interval"][0] <= written["choices"]["nll_per_token"]
    samples = [json.loads(line) for line in (tmp_path / "out/samples.jsonl").read_text().splitlines()]
    assert [s["setting"] for s in samples] == ["hard-greedy"] * 5 + ["fuzzy-sample"] * 15
    assert heard == [("hard-greedy", 5, 5), ("fuzzy-sample", 15, 15)]
    with pytest.raises(UserError, match="already holds something; give a new folder"):
        evaluate(config)
