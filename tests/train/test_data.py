from collections import Counter

import pytest

from softtokens.train.data import problems_of_step
from softtokens.types import Problem

SEVEN = [Problem(i, f"question {i}", str(i)) for i in range(7)]


def ids(step, count=2, seed=0, problems=SEVEN):
    return [problem.id for problem, _ in problems_of_step(problems, step, count, seed)]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10, 15])
def test_every_epoch_visits_every_problem_once(count):
    steps = 7 * 4
    drawn = [pair for step in range(steps) for pair in problems_of_step(SEVEN, step, count, seed=1)]
    for epoch in range(4 * count):
        assert sorted(p.id for p, _ in drawn[7 * epoch : 7 * (epoch + 1)]) == list(range(7))


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_visits_are_counted(count):
    """The number of a visit names the rollouts' random numbers, so it must never repeat for a problem."""
    visits = Counter()
    for step in range(30):
        for problem, visit in problems_of_step(SEVEN, step, count, seed=1):
            assert visit == visits[problem.id]
            visits[problem.id] += 1


def test_does_not_depend_on_what_was_asked_before():
    forwards = [ids(step) for step in range(40)]
    backwards = [ids(step) for step in reversed(range(40))]
    assert forwards == backwards[::-1]
    assert ids(17) == forwards[17]


def test_epochs_and_seeds_differ_in_order():
    epochs = {tuple(ids(step, count=7)) for step in range(10)}
    assert len(epochs) == 10  # two of ten equal by chance: about 1 in 100; the seed is fixed
    assert ids(0, count=7, seed=1) != ids(0, count=7, seed=2)


def test_one_problem_is_enough():
    assert [(p.id, visit) for p, visit in problems_of_step(SEVEN[:1], 2, 3, seed=0)] == [(0, 6), (0, 7), (0, 8)]
