import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softtokens.evaluate.passk import MAX_VOTERS, ks_up_to, maj_at_k, pass_at_k


@pytest.mark.parametrize("samples", range(1, 9))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(samples):
    for k in range(1, samples + 1):
        subsets = list(itertools.combinations(range(samples), k))
        for right in range(samples + 1):  # without loss of generality the first ones are right
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


def share_of_subsets_won(votes, samples, k):
    """maj@k by trying every subset; answers are numbered, None abstains."""
    answers = [place for place, (count, _) in enumerate(votes) for _ in range(count)]
    answers += [None] * (samples - len(answers))
    won = []
    for subset in itertools.combinations(answers, k):
        counts = Counter(answer for answer in subset if answer is not None)
        ahead = [answer for answer, count in counts.items() if count == max(counts.values())]
        won.append(sum(votes[answer][1] for answer in ahead) / len(ahead) if ahead else 0.0)
    return sum(won) / len(won)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=4), st.integers(0, 2))
def test_maj_at_k_is_the_share_of_subsets_that_elect_a_right_answer(votes, abstaining):
    samples = max(1, sum(count for count, _ in votes) + abstaining)
    ks = list(range(1, min(samples, 7) + 1))
    expected = [share_of_subsets_won(votes, samples, k) for k in ks]
    np.testing.assert_allclose(maj_at_k([votes], samples, ks)[0], expected, atol=1e-12)


def test_maj_at_1_is_pass_at_1():
    votes = [[(3, True), (2, False)], [(8, False)], [], [(1, True), (1, True), (6, False)]]
    np.testing.assert_allclose(maj_at_k(votes, 8, [1])[:, 0], pass_at_k([3, 0, 0, 2], 8, 1))


def test_all_samples_vote_when_k_is_all_of_them():
    votes = [[(3, True), (2, False)], [(2, True), (2, False), (1, False)], [(2, False), (1, True)]]
    assert maj_at_k(votes, 8, [8])[:, 0].tolist() == [1.0, 0.5, 0.0]


def test_many_voters():
    """A right answer given by 60 % of the samples wins nearly every large vote; binomials stay finite."""
    result = maj_at_k([[(308, True), (204, False)]], MAX_VOTERS, [1, 101, MAX_VOTERS])[0]
    assert result[0] == pytest.approx(308 / 512)
    assert 0.95 < result[1] < result[2] == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"samples is 513; maj@k is computed for up to 512"):
        maj_at_k([[(1, True)]], MAX_VOTERS + 1, [1])


def test_many_answers():
    """Samples that all differ, one of them right: every draw of k is a tie of k. Where the others do not vote, the
    right one wins whenever it is drawn."""
    np.testing.assert_allclose(maj_at_k([[(1, place == 0) for place in range(500)]], 500, [1, 10, 500])[0], 1 / 500)
    np.testing.assert_allclose(maj_at_k([[(1, True)]], MAX_VOTERS, [1, 100])[0], [1 / 512, 100 / 512])


@pytest.mark.parametrize("votes", [[(5, True)], [(0, True)], [(3, True), (2, False)]])
def test_votes_that_cannot_be(votes):
    with pytest.raises(ValueError, match="do not fit 4 samples"):
        maj_at_k([votes], 4, [1])


@pytest.mark.parametrize("k", [0, 5])
def test_a_vote_of_more_than_there_are_is_refused(k):
    with pytest.raises(ValueError, match=r"k is \d, with 4 samples per problem; it must be in 1 \.\. 4"):
        maj_at_k([[(4, True)]], 4, [k])
