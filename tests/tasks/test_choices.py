import json

import pytest

from softtokens.tasks import load_choice_items
from softtokens.types import ChoiceItem, UserError


@pytest.fixture
def file_of(tmp_path):
    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def row(answer=0, choices=("a", "b", "c"), question="Which?"):
    return {"question": question, "choices": choices, "answer": answer}


def test_items(file_of):
    path = file_of(row(2), row(0, [" yes ", "no"], " Is {question} so?\n"))
    items = load_choice_items(path)
    assert items == [
        ChoiceItem(0, "Question: Which?\nAnswer:", (" a", " b", " c"), 2),
        ChoiceItem(1, "Question: Is {question} so?\nAnswer:", (" yes", " no"), 0),
    ]
    assert load_choice_items(path, limit=1) == items[:1]


@pytest.mark.parametrize(("answer", "index"), [(1, 1), ("1", 1), (" B ", 1), ("A", 0), ("C", 2), (0, 0)])
def test_ways_to_give_the_answer(file_of, answer, index):
    assert load_choice_items(file_of(row(answer)))[0].answer == index


@pytest.mark.parametrize("answer", [3, -1, "D", "AB", "", "b", True, 1.0, [1], "1" * 5000, "²", "٣"])
def test_answers_that_name_no_choice(file_of, answer):
    with pytest.raises(UserError, match=r"row 1 .*'answer' is .*3 choices"):
        load_choice_items(file_of(row(), row(answer)))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"choices": ["a", "b"], "answer": 0}, r"row 1 .*'question' is missing"),
        ({"question": "Which?", "answer": 0}, r"row 1 .*'choices' is missing"),
        (row(None), r"row 1 .*'answer' is missing"),
        (row(question=" "), r"row 1 .*'question' is empty"),
        (row(question=7.5, choices=["a"]), r"row 1 .*'choices' .*at least 2"),
        (row(choices="ab"), r"row 1 .*'choices' is 'ab'; .*list"),
        (row(choices=["a", ""]), r"row 1 .*'choices\[1\]' is empty"),
        (row(choices=["a", None]), r"row 1 .*'choices\[1\]' is missing"),
        (row(choices=["a", ["b"]]), r"row 1 .*'choices\[1\]' is \['b'\], a list"),
    ],
)
def test_rows_that_are_no_items(file_of, bad, message):
    with pytest.raises(UserError, match=message):
        load_choice_items(file_of(row(), bad))


def test_columns_and_template(file_of):
    path = file_of({"ctx": "A man", "endings": ["runs.", "is."], "label": "1"})
    (item,) = load_choice_items(path, question="ctx", choices="endings", answer="label", template="{question}")
    assert item == ChoiceItem(0, "A man", (" runs.", " is."), 1)
    with pytest.raises(UserError, match=r"no column 'question'; it has 'ctx', 'endings', 'label'.*Rename its column"):
        load_choice_items(path)
    with pytest.raises(UserError, match=r"no column 'choices'.*Rename.*load_choice_items\(\.\.\., choices=\.\.\.\)"):
        load_choice_items(path, question="ctx")
    with pytest.raises(UserError, match="template"):
        load_choice_items(path, template="Answer:")


def test_facts_come_with_the_package():
    items = load_choice_items("facts", limit=4, seed=3)
    assert len(items) == 4 and items == load_choice_items("facts", limit=4, seed=3)
    assert items != load_choice_items("facts", limit=4, seed=4)
    assert all(len(item.choices) == 4 and item.choices[0].startswith(" ") for item in load_choice_items("facts"))


def test_a_missing_file():
    with pytest.raises(UserError, match=r"no file or folder 'facts\.jsonl'"):
        load_choice_items("facts.jsonl")
