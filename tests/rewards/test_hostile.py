"""A corpus of hostile and random answers: nothing hangs, nothing crashes, nothing is graded right."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softtokens.rewards.exact import ExactGrader
from softtokens.rewards.math import MathGrader
from softtokens.types import Verdict

FILE = Path(__file__).with_name("hostile.jsonl")
ROWS = [json.loads(line) for line in FILE.read_text().splitlines()]
TEXT = st.text(alphabet=st.characters() | st.sampled_from("\\{}$^_()[]0123456789.,+-*/=x% \n"), max_size=200)


def text_of(row: dict) -> str:
    text = row["text"]
    return text if isinstance(text, str) else text[0] * text[1]


def assert_none_is_right(grader, rows: list[dict]) -> None:
    verdicts = grader.grade([text_of(row) for row in rows], [row["expected"] for row in rows])
    wrong = [(row["expected"], text_of(row)[:200]) for row, v in zip(rows, verdicts, strict=True) if v is Verdict.RIGHT]
    assert wrong == []


def test_the_corpus_is_large():
    assert len(ROWS) >= 1000


def test_hostile_answers_are_not_right_by_text():
    assert_none_is_right(ExactGrader(), ROWS)


def test_some_hostile_answers_are_not_right_by_mathematics():
    with MathGrader(timeout_s=2.0) as grader:
        assert_none_is_right(grader, ROWS[::37])
        assert grader.grade([r"\boxed{\frac{2}{4}}"], ["0.5"]) == [Verdict.RIGHT]  # it still works


@pytest.mark.parametrize(
    ("expected", "text", "verdict"),
    [
        ("0", r"0 \pm 4096", Verdict.WRONG),
        ("0", "not 0", Verdict.WRONG),
        (r"\frac{1}{2}", r"\neq \frac{1}{2}", Verdict.WRONG),
        (r"\frac{1}{2}", r"> \frac{1}{2}", Verdict.WRONG),
        (r"\frac{1}{2}", r"\left( \frac{1}{2} \right)", Verdict.RIGHT),
        ("2", "x=2", Verdict.RIGHT),
        (r"\pm 2", r"\pm 2", Verdict.RIGHT),
        (r"x \leq 3", r"x \le 3", Verdict.RIGHT),
    ],
)
def test_a_sign_of_other_numbers_is_not_passed_over(expected, text, verdict):
    """Found by the corpus: Math-Verify takes `0 \\pm 4096` for 0 and `> \\frac{1}{2}` for a half."""
    with MathGrader() as grader:
        assert grader.grade([rf"\boxed{{{text}}}"], [expected]) == [verdict]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_all_hostile_answers_are_not_right_by_mathematics():
    with MathGrader(timeout_s=2.0) as grader:
        assert_none_is_right(grader, ROWS)
        assert grader.grade([r"\boxed{\frac{2}{4}}"], ["0.5"]) == [Verdict.RIGHT]


@settings(max_examples=300, deadline=None)
@given(TEXT, st.sampled_from(["12345", "x+1", r"\frac{1}{2}"]))
def test_random_texts_are_never_right_by_text(text, expected):
    verdicts = ExactGrader().grade([text, rf"\boxed{{{text}}}"], [expected, expected])
    assert verdicts[0] in (Verdict.NO_ANSWER, Verdict.WRONG)
    if "\\" not in text and "{" not in text and "}" not in text and "12345" not in text and "x" not in text.lower():
        assert verdicts[1] is not Verdict.RIGHT
