from __future__ import annotations

import dataclasses
import json

import pytest

from softtokens.config.evaluate import EvaluateConfig
from softtokens.config.task import TaskConfig
from softtokens.config.thought import SETTINGS
from softtokens.types import Problem, Verdict

QUESTIONS = ["Tom has 4 apples.", "3", "Tom has 12 apples. so. User", "so. 12", "User has 4."]
PROBLEMS = [Problem(10 * i, f"User: {q} Assistant:", str(i)) for i, q in enumerate(QUESTIONS)]
LIMITS = {"max_thought_steps": 6, "max_answer_tokens": 4}


def make_cell(setting: str, **changes):
    """The cell of a setting with some values of its thought changed."""
    from softtokens.evaluate.cells import Cell

    named = SETTINGS[setting]
    return Cell(setting, dataclasses.replace(named.thought, **changes), named.is_greedy)


class ByText:
    """Judges any text, so that verdicts differ between samples of a model that knows nothing."""

    def grade(self, completions, answers):
        judgements = [Verdict.RIGHT, Verdict.WRONG, Verdict.NO_ANSWER, Verdict.WRONG]
        return [judgements[(sum(map(ord, c)) + int(a)) % 4] for c, a in zip(completions, answers, strict=True)]

    def groups(self, answers):
        return list(range(len(answers)))

    def close(self):
        pass


@pytest.fixture(scope="session")
def random_policy(make_policy):
    return make_policy("llama-untied")


@pytest.fixture(scope="session")
def model_folder(random_policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "random"
    random_policy.save(folder)
    return folder


@pytest.fixture(scope="session")
def other_folder(make_policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "other"
    make_policy("llama-untied", seed=1).save(folder)
    return folder


@pytest.fixture
def questions(tmp_path):
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps({"question": q, "answer": i}) + "\n" for i, q in enumerate(QUESTIONS)))
    return file


@pytest.fixture
def config_for(model_folder, questions, tmp_path, monkeypatch):
    """Valid configurations of evaluations, graded by text."""
    monkeypatch.setattr("softtokens.evaluate.run.grader_of", lambda task: ByText())

    def make(*, task: dict | None = None, **options):
        named = {"name": str(questions), "template": "User: {question} Assistant:", "grader": "exact"}
        options = {"models": (str(model_folder),), "device": "cpu", "samples": 3, **LIMITS, **options}
        options.setdefault("settings", ("hard-greedy", "soft-sample"))
        return EvaluateConfig(**{"output": str(tmp_path / "out"), **options}, task=TaskConfig(**(named | (task or {}))))

    return make


@pytest.fixture
def drawn(monkeypatch):
    """The (problem, sample) of every row that is actually sampled, by batch."""
    from softtokens.evaluate import sampling

    batches: list[list[tuple[int, int]]] = []
    stream, sample = sampling.stream_problems, sampling.sample_problems

    def counting(policy, thought, problems, rows, *arguments, **options):
        for finished, rollout in stream(policy, thought, problems, rows, *arguments, **options):
            batches.append([(problems[i].id, n) for i, n in finished])
            yield finished, rollout

    def counting_whole(policy, thought, problems, rollout_ids, *arguments, **options):
        batches.append([(p.id, n) for p, ids in zip(problems, rollout_ids, strict=True) for n in ids])
        return sample(policy, thought, problems, rollout_ids, *arguments, **options)

    monkeypatch.setattr(sampling, "stream_problems", counting)
    monkeypatch.setattr(sampling, "sample_problems", counting_whole)
    return batches
