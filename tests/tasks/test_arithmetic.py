"""The arithmetic task: the same on every machine, disjoint splits, chains with correct results."""

from __future__ import annotations

import collections
import re

import pytest

from softtokens.tasks import arithmetic
from softtokens.types import UserError

PINNED = [
    "User: Zoe puts 43 stamps in a box. Amy takes out 9. She puts in 7 more. "
    "How many stamps are in the box?\nAssistant:",
    "User: Jim has 3 shells. Now he has twice as many. He sells 6. He buys 15 more. He sells 12. "
    "How many shells does he have?\nAssistant:",
]
CASES = [(split, difficulty) for split in ("train", "validation", "test") for difficulty in ("short", "long")]


def test_a_split_is_the_same_on_every_machine():
    assert [p.prompt for p in arithmetic.problems("test", 2)] == PINNED


def test_the_same_arguments_give_the_same_problems_and_a_longer_list_begins_with_the_shorter():
    assert arithmetic.problems("train", 50, seed=3) == arithmetic.problems("train", 80, seed=3)[:50]


def test_another_seed_gives_other_problems():
    first, second = ({p.prompt for p in arithmetic.problems("train", 200, seed=seed)} for seed in (0, 1))
    assert len(first & second) < 10


def test_splits_share_no_question_whatever_the_seed():
    questions = {
        split: {p.prompt for seed in range(3) for p in arithmetic.problems(split, 300, seed=seed)}
        for split in arithmetic.SPLITS
    }
    assert not questions["train"] & questions["validation"]
    assert not questions["train"] & questions["test"]
    assert not questions["validation"] & questions["test"]


@pytest.mark.parametrize(("split", "difficulty"), CASES)
def test_questions_of_one_list_differ_and_ids_are_positions(split, difficulty):
    drawn = arithmetic.problems(split, 200, difficulty=difficulty)
    assert len({p.prompt for p in drawn}) == 200
    assert [p.id for p in drawn] == list(range(200))
    assert all(re.fullmatch(r"User: [^\n{}]+\?\nAssistant:", p.prompt) for p in drawn)


@pytest.mark.parametrize(("split", "difficulty"), CASES)
def test_every_step_of_a_chain_is_true_and_leads_to_the_answer(split, difficulty):
    fewest, most = {"short": (2, 4), "long": (5, 7)}[difficulty]
    for problem in arithmetic.problems(split, 200, difficulty=difficulty):
        opening, *steps, ending = re.split(r"(?<=\.) ", arithmetic.worked_chain(problem).removeprefix(" "))
        assert fewest <= len(steps) <= most
        numbers = [int(n) for n in re.findall(r"\d+", problem.columns["question"])]
        value = numbers[0]
        assert opening == f"{value}."
        for step in steps:
            left, sign, right, result = re.fullmatch(r"Then (\d+)([-+*])(\d+)=(\d+)\.", step).groups()
            assert int(left) == value
            value = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}[sign]
            assert int(result) == value
            assert 0 <= value <= 99
        assert ending == rf"The final answer is: \boxed{{{problem.answer}}}"
        assert str(value) == problem.answer


WORDS = {
    "+": "buys|finds|gets|puts in|get on",
    "-": "gives|loses|sells|takes out|get off|leave",
    "*2": "twice|doubles",
    "*3": "3 times|triples",
}


@pytest.mark.parametrize("difficulty", ["short", "long"])
def test_the_chain_does_what_the_words_of_the_question_say(difficulty):
    for problem in arithmetic.problems("train", 300, difficulty=difficulty):
        opening, *events, _ = re.split(r"(?<=\.) ", problem.columns["question"])
        expected = []
        for event in events:
            [sign] = [sign for sign, words in WORDS.items() if re.search(words, event)]
            expected.append(sign if len(sign) == 2 else sign + re.search(r"\d+", event)[0])
        assert tuple(expected) == problem.columns["changes"]
        assert int(re.search(r"\d+", opening)[0]) == problem.columns["start"]


def test_multiple_choice_is_well_formed_and_its_right_answers_are_spread_evenly():
    right_of = {question: fact.right for fact in arithmetic.facts() for question in fact.questions}
    items = arithmetic.multiple_choice(200)
    assert [item.id for item in items] == list(range(200))
    assert len({item.prompt for item in items}) == 200
    for item in items:
        assert len(item.choices) == len(set(item.choices)) == 4
        question = item.prompt.removeprefix("User: ").removesuffix("\nAssistant:")
        assert item.choices[item.answer] == f" {right_of[question]}"
    assert set(collections.Counter(item.answer for item in items).values()) == {50}
    assert items == arithmetic.multiple_choice(200)
    assert items != arithmetic.multiple_choice(200, seed=1)


def test_no_question_has_two_right_answers():
    asked = [question for fact in arithmetic.facts() for question in fact.questions]
    assert len(asked) == len(set(asked))
    assert all(fact.right not in fact.wrong and len(fact.wrong) >= 3 for fact in arithmetic.facts())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: arithmetic.problems("dev", 1), "split is 'dev'.*train, validation, test"),
        (lambda: arithmetic.problems("train", 0), "count is 0.*1 problem or more"),
        (lambda: arithmetic.problems("train", 1, difficulty="hard"), "difficulty is 'hard'.*short, long"),
        (lambda: arithmetic.multiple_choice(0), "count is 0.*1 to"),
        (lambda: arithmetic.multiple_choice(100_000), "count is 100000.*1 to"),
    ],
)
def test_bad_values_are_named_with_what_is_allowed(call, message):
    with pytest.raises(UserError, match=message):
        call()
