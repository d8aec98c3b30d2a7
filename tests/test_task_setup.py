"""What a configuration refers to does not depend on files in the working directory."""

import pytest

from softtokens.config.task import TaskConfig
from softtokens.config.train import TrainConfig
from softtokens.rewards.exact import ExactGrader
from softtokens.rewards.math import MathGrader
from softtokens.task_setup import grader_of, problems_of, task_data, validation_problems, validation_task
from softtokens.types import UserError


def test_a_folder_named_like_a_task_changes_nothing(tmp_path, monkeypatch):
    task = TaskConfig(limit=20)
    expected = problems_of(task, default_split="test")
    (tmp_path / "arithmetic").mkdir()
    monkeypatch.chdir(tmp_path)
    assert problems_of(task, default_split="test") == expected


def test_validation_problems_are_not_those_of_the_training():
    trained = {p.prompt for p in problems_of(TaskConfig(), default_split="train")}
    held_out = validation_problems(TrainConfig(validation_problems=64))
    assert len(held_out) == 64 and trained.isdisjoint(p.prompt for p in held_out)


def test_validation_is_graded_as_its_own_task():
    validated = TrainConfig(validation="problems.jsonl", validation_problems=3, validation_split="dev")
    assert isinstance(grader_of(validated.task), ExactGrader)
    assert isinstance(grader_of(validation_task(validated)), MathGrader)
    assert (validation_task(validated).limit, validation_task(validated).split) == (3, "dev")
    assert isinstance(grader_of(validation_task(TrainConfig())), ExactGrader)
    named = TrainConfig(task=TaskConfig(grader="exact"), validation="problems.jsonl")
    assert isinstance(grader_of(validation_task(named)), ExactGrader)


def test_validation_needs_answers(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": "Say hello."}\n')
    with pytest.raises(UserError, match=r"no column 'answer'.*validation.*--validate-every 0"):
        validation_problems(TrainConfig(validation=str(file)))


def test_the_template_that_is_saved_is_the_one_that_prompts_are_made_with():
    data = task_data(TaskConfig(limit=1, template=r"{question}\nA:"), default_split="train")
    assert data.template == "{question}\nA:"
    assert data.problems[0].prompt == data.problems[0].columns["question"] + "\nA:"
