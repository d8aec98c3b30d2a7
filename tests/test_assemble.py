"""What a configuration names does not depend on what lies about in the working directory."""

from softtokens.assemble import problems_of, validation_problems
from softtokens.config import TaskConfig, TrainConfig


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
