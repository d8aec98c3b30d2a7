import itertools

import numpy as np
import pytest

from softtokens.evaluate import intervals
from softtokens.evaluate.intervals import (
    bootstrap_interval,
    estimate,
    estimates,
    holm,
    paired_difference,
    sign_flip_p,
    student_quantile,
)


@pytest.mark.parametrize(("problems", "level"), [(60, 0.5), (60, 0.9), (12, 0.95)])
def test_intervals_cover_as_often_as_they_say(problems, level, monkeypatch):
    """400 made-up data sets. The share covered has a standard error of 2.5 % at most: within 9 %, a false alarm is
    below 1 in 1,000. benchmarks/evaluation/coverage.py measures it with more care."""
    monkeypatch.setattr(intervals, "_RESAMPLES", 1000)
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        low, high = bootstrap_interval(random.beta(2, 3, size=problems), level=level)
        covered += low <= 0.4 <= high
    assert covered / 400 == pytest.approx(level, abs=0.09)


def test_few_problems_get_wider_intervals_than_plain_percentiles():
    """At n problems by sqrt(n / (n - 1)) times Student's quantile over the normal one: 1.22 for 10."""
    values = np.random.default_rng(3).normal(size=10)
    low, high = bootstrap_interval(values)
    plain = 2 * 1.96 * values.std() / np.sqrt(10)  # expected width of the bootstrap interval
    assert (high - low) / plain == pytest.approx(2.262 / 1.960 * np.sqrt(10 / 9), rel=0.06)


@pytest.mark.parametrize(
    ("p", "degrees", "expected"),
    [(0.975, 4, 2.7764), (0.975, 9, 2.2622), (0.975, 30, 2.0423), (0.95, 10, 1.8125), (0.75, 5, 0.7267)],
)
def test_student_quantile_as_tabulated(p, degrees, expected):
    assert student_quantile(p, degrees) == pytest.approx(expected, rel=2e-3)


def test_all_wrong_and_all_right_still_leave_doubt():
    """Resampling zeros gives zeros; but 50 problems without a right answer do not exclude a share of 7 %. The bound is
    Clopper and Pearson's: 0.0711 for 0 of 50."""
    assert estimate(np.zeros(50), shares=True) == {"value": 0.0, "low": 0.0, "high": pytest.approx(0.0711, abs=1e-4)}
    assert estimate(np.ones(50), shares=True) == {"value": 1.0, "low": pytest.approx(0.9289, abs=1e-4), "high": 1.0}
    assert estimate(np.zeros(50)) == {"value": 0.0, "low": 0.0, "high": 0.0}  # not a share, so nothing bounds it


def test_a_single_problem_has_no_interval():
    assert estimate(np.array([0.5]), shares=True) == {"value": 0.5, "low": None, "high": None}


def test_the_same_values_give_the_same_interval_around_the_mean():
    values = np.random.default_rng(2).random(100)
    low, high = bootstrap_interval(values)
    assert bootstrap_interval(values) == (low, high)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.1)  # close to normal at this size


def test_columns_are_treated_as_if_alone():
    values = np.random.default_rng(4).random((40, 3))
    for column, interval in zip(values.T, estimates(values), strict=True):
        assert interval["value"] == pytest.approx(column.mean())
        alone = estimate(column)
        assert interval["low"] == pytest.approx(alone["low"], abs=0.01)  # drawn from other resamples
        assert interval["high"] == pytest.approx(alone["high"], abs=0.01)


def test_weights_count_tokens():
    """A text of 1,000 tokens weighs as much as 1,000 texts of one."""
    interval = estimate(np.array([1.0, 0.0, 0.0]), np.array([1000.0, 1.0, 1.0]))
    assert interval["value"] == pytest.approx(1000 / 1002)
    equal, plain = (estimate(np.arange(20.0), weights) for weights in (np.full(20, 7.0), None))
    assert equal == pytest.approx(plain)


def test_sign_flips_by_enumeration():
    difference = np.array([0.5, -0.25, 0.0, 1.0, 0.75])
    flipped = [abs(np.dot(signs, difference)) for signs in itertools.product((1, -1), repeat=5)]
    assert sign_flip_p(difference) == pytest.approx(np.mean(np.array(flipped) >= 2.0 - 1e-9))


def test_sign_flips_are_mcnemar_for_right_and_wrong():
    """9 problems gained, 1 lost: two-sided binomial test, 2 * 11 / 1024."""
    assert sign_flip_p(np.array([1.0] * 9 + [-1.0] + [0.0] * 40)) == pytest.approx(22 / 1024)


def test_sign_flips_of_many_problems_by_lot():
    """20 gained, 5 lost: the exact value is 0.00408; 10,000 draws have a standard error of 0.0006."""
    assert sign_flip_p(np.array([1.0] * 20 + [-1.0] * 5)) == pytest.approx(0.00408, abs=4 * 0.0006)
    assert sign_flip_p(np.ones(300)) == pytest.approx(1 / 10_001)
    assert sign_flip_p(np.zeros(300)) == 1.0


def test_p_values_are_uniform_when_nothing_differs(monkeypatch):
    """500 pairs of the same binomial: p < 0.2 in 20 %, standard error 1.8 %; a false alarm beyond 4 of them is rare."""
    monkeypatch.setattr(intervals, "_RESAMPLES", 400)
    random = np.random.default_rng(5)
    ps = [sign_flip_p(random.binomial(8, 0.3, 40) / 8 - random.binomial(8, 0.3, 40) / 8) for _ in range(500)]
    assert np.mean(np.array(ps) < 0.2) == pytest.approx(0.2, abs=0.072)


def test_paired_difference():
    a, b = np.array([1.0, 1.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0, 0.0])
    interval = paired_difference(a, b)
    assert interval["value"] == 0.5
    assert (interval["problems"], interval["differing"]) == (4, 2)
    assert interval["p"] == 0.5
    assert interval["low"] <= 0.5 <= interval["high"]
    same = paired_difference(a, a)
    assert (same["value"], same["p"], same["differing"]) == (0.0, 1.0, 0)


def test_pairing_sharpens():
    """A gain of 0.05 on every problem is certain, however much problems differ from each other."""
    a = np.random.default_rng(6).random(50)
    interval = paired_difference(a + 0.05, a)
    assert interval["low"] == pytest.approx(0.05) == interval["high"]
    assert estimate(a)["high"] - estimate(a)["low"] > 0.1


def test_holm():
    """The example of the definition: smallest times 4, next times 3, never below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_shares_that_never_differ_may_differ_elsewhere():
    """Of 10 problems none differs: the share that would is below 1 - 0.025^(1/10), either way."""
    same = paired_difference(np.ones(10), np.ones(10), shares=True)
    assert (same["low"], same["high"]) == (pytest.approx(-0.3085, abs=1e-4), pytest.approx(0.3085, abs=1e-4))
    assert paired_difference(np.ones(1), np.ones(1), shares=True)["low"] is None
    one = paired_difference(np.eye(10)[0], np.zeros(10), shares=True)
    assert (one["low"], one["high"]) == (0.0, paired_difference(np.eye(10)[0], np.zeros(10))["high"])


@pytest.mark.parametrize("problems", [5, 50])
def test_what_was_not_measured_is_not_significant(problems):
    with pytest.raises(ValueError, match="not finite"):
        sign_flip_p(np.array([np.nan] + [0.5] * problems))
