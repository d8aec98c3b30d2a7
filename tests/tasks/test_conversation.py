"""Data sets as the tools around us have them: prompts as messages, solutions, folders with several splits."""

import json

import pytest

from softtokens.config.task import TaskConfig
from softtokens.task_setup import problems_of
from softtokens.tasks import load_problems
from softtokens.types import UserError

SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "A?"}
TURNS = [USER, {"role": "assistant", "content": "1"}, {"role": "user", "content": "And B?"}]


@pytest.fixture
def file_of(tmp_path):
    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def test_messages_are_the_conversation(file_of):
    rows = [{"prompt": [SYSTEM, USER], "solution": "1"}, {"prompt": TURNS, "solution": "2"}]
    first, second = load_problems(file_of(*rows), chat=True)
    assert (first.messages, first.answer, first.prompt) == ((SYSTEM, USER), "1", "")
    assert (second.messages, second.answer) == (tuple(TURNS), "2")


def test_the_system_message_is_for_conversations_without_one(file_of):
    rows = [
        {"prompt": [SYSTEM, USER], "answer": "1"},
        {"prompt": TURNS, "answer": "2"},
        {"prompt": "A?", "answer": "3"},
    ]
    shout = {"role": "system", "content": "Shout."}
    messages = [p.messages for p in load_problems(file_of(*rows), chat=True, system="Shout.")]
    assert messages == [(SYSTEM, USER), (shout, *TURNS), (shout, USER)]


def test_columns_that_only_some_messages_have_and_parts_of_text(file_of):
    parts = [{"type": "text", "text": "A"}, {"type": "text", "text": "?"}]
    row = {"prompt": [{"role": "user", "content": parts, "name": None, "tool_calls": None}], "answer": "1"}
    (problem,) = load_problems(file_of(row), chat=True)
    assert problem.messages == (USER,)


def test_messages_survive_a_parquet_file(tmp_path):
    import datasets

    datasets.Dataset.from_list([{"prompt": [SYSTEM, USER], "solution": "1"}]).to_parquet(tmp_path / "rows.parquet")
    (problem,) = load_problems(str(tmp_path / "rows.parquet"), chat=True)
    assert problem.messages == (SYSTEM, USER)


@pytest.mark.parametrize(
    ("solution", "answer"),
    [("7", "7"), (r"so $\boxed{8}$, no: $\boxed{\frac{1}{2}}$", r"\frac{1}{2}"), ("3 + 4\n#### 7", "7")],
)
def test_solutions_are_read_and_handed_on(file_of, solution, answer):
    """Reward functions written for TRL take the solution by its name."""
    (problem,) = load_problems(file_of({"prompt": "A?", "solution": solution}))
    assert (problem.answer, problem.columns) == (answer, {"solution": solution})
    (other,) = load_problems(file_of({"prompt": "A?", "solution": solution, "answer": "5"}))
    assert (other.answer, other.columns) == ("5", {"solution": solution})


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], r"row 0 .*'prompt' is '\[\]'; it has to be a text or a list of messages"),
        ([SYSTEM], r"row 0 .*'prompt' has the messages system and no turn of the user"),
        (TURNS[:2], r"row 0 .*'prompt' ends with the assistant's turn \(user, assistant\).*\"solution\" or \"answer\""),
        (["A?"], r"message 0 is 'A\?'; it has to be an object"),
        ([{"role": "user"}], r"message 0 is .*; it has to be an object \{\"role\": ..., \"content\": ...\}"),
        ([{"role": "user", "content": ""}], "message 0: the content is empty"),
        ([{"role": None, "content": "A?"}], "message 0: the role is None"),
        ([{"role": "user", "content": [{"type": "image"}]}], "message 0 has parts of the kinds image; only text"),
        ([{"role": "user", "content": ["A?"]}], "message 0 has parts of the kinds str; only text"),
    ],
)
def test_messages_that_are_no_prompt(file_of, prompt, message):
    with pytest.raises(UserError, match=message):
        load_problems(file_of({"prompt": prompt, "answer": "1"}), chat=True)


def test_messages_of_another_column_need_the_bare_template(file_of):
    path = file_of({"messages": [SYSTEM, USER], "answer": "1"})
    with pytest.raises(UserError, match=r"'messages' is a list.*add --chat and --template '\{question\}'"):
        load_problems(path, question="messages", chat=True)
    (problem,) = load_problems(path, question="messages", template="{question}", chat=True)
    assert problem.messages == (SYSTEM, USER)


@pytest.mark.parametrize("kind", ["saved", "files"])
def test_a_folder_of_splits_gives_the_one_that_is_needed(tmp_path, kind):
    import datasets

    rows = {split: [{"question": f"{split}?", "answer": "1"}] for split in ("train", "test")}
    if kind == "saved":
        saved = datasets.DatasetDict({split: datasets.Dataset.from_list(rows[split]) for split in rows})
        saved.save_to_disk(tmp_path / "data")
    else:
        (tmp_path / "data").mkdir()
        for split in rows:
            (tmp_path / f"data/{split}.jsonl").write_text(json.dumps(rows[split][0]) + "\n")
    task = TaskConfig(name=str(tmp_path / "data"), template="{question}")
    for split in rows:
        assert [p.prompt for p in problems_of(task, default_split=split)] == [f"{split}?"]
    named = TaskConfig(name=str(tmp_path / "data"), template="{question}", split="test")
    assert [p.prompt for p in problems_of(named, default_split="train")] == ["test?"]
    with pytest.raises(UserError, match=r"has the splits .*; set split to one of them"):
        problems_of(task, default_split="validation")
