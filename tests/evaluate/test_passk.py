import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softtokens.evaluate.passk import bootstrap_interval, ks_up_to, pass_at_k


@pytest.mark.parametrize("samples", range(1, 9))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(samples):
    for k in range(1, samples + 1):
        subsets = list(itertools.combinations(range(samples), k))
        for right in range(samples + 1):  # say the first ones are right
            share = sum(subset[0] < right for subset in subsets) / len(subsets)
            assert pass_at_k([right], samples, k)[0] == pytest.approx(share, abs=1e-12)


@settings(deadline=None)
@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_pass_at_k_at_the_ends(samples_and_right):
    samples, right = samples_and_right
    assert pass_at_k([right], samples, 1)[0] == pytest.approx(right / samples)
    assert pass_at_k([right], samples, samples)[0] == (right > 0)
    curve = [pass_at_k([right], samples, k)[0] for k in ks_up_to(samples)]
    assert curve == sorted(curve)
    assert 0 <= min(curve) <= max(curve) <= 1


def test_pass_at_k_is_unbiased():
    """From many samples as from few: the mean over problems of known chance p is 1 - (1 - p)^k. Standard error 0.0033;
    a false alarm at 4 of them: 1 in 16,000 (and the seed is fixed)."""
    random = np.random.default_rng(0)
    right = random.binomial(8, 0.2, size=20_000)
    assert pass_at_k(right, 8, 4).mean() == pytest.approx(1 - 0.8**4, abs=4 * 0.0033)


@pytest.mark.parametrize("k", [0, 5, -1])
def test_k_beyond_the_samples_is_refused(k):
    with pytest.raises(ValueError, match=r"it must be in 1 \.\. 4"):
        pass_at_k([2], 4, k)


@pytest.mark.parametrize("right", [-1, 5])
def test_impossible_counts_are_refused(right):
    with pytest.raises(ValueError, match=r"must be in 0 \.\. 4"):
        pass_at_k([0, right], 4, 1)


def test_ks():
    assert ks_up_to(1) == [1]
    assert ks_up_to(2) == [1, 2]
    assert ks_up_to(32) == [1, 2, 4, 8, 16, 32]
    assert ks_up_to(33) == [1, 2, 4, 8, 16, 32, 33]


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_cover_as_often_as_they_say(level, monkeypatch):
    """400 made-up data sets of 60 problems. The share covered has a standard error of 2.5 % at most, and percentile
    intervals of 60 values fall short by about 1 %: within 9 %, a false alarm is below 1 in 1,000."""
    monkeypatch.setattr("softtokens.evaluate.passk._RESAMPLES", 1000)
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        low, high = bootstrap_interval(random.beta(2, 3, size=60), level=level)
        covered += low <= 0.4 <= high
    assert covered / 400 == pytest.approx(level, abs=0.09)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_wrong_and_all_right_leave_no_doubt(value):
    assert bootstrap_interval(np.full(50, value)) == (value, value)


def test_the_same_values_give_the_same_interval_around_the_mean():
    values = np.random.default_rng(2).random(100)
    low, high = bootstrap_interval(values)
    assert bootstrap_interval(values) == (low, high)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.1)  # close to normal at this size
