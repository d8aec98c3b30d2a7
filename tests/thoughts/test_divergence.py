"""KL between thoughts: closed forms against Monte Carlo, and what has none.

Bounds of six standard errors on a dozen means have a chance of a false alarm below 1e-7.
"""

import dataclasses

import pytest
import torch

from softtokens.ops.random import Keys, Stream
from softtokens.ops.vocabulary import Vocabulary
from softtokens.thoughts import Gaussian, Hard, HiddenGaussian, LogitGaussian, kl
from softtokens.thoughts.divergence import sampled_kl

DIM, TOKENS, UNUSED, SAMPLES = 4, 7, 2, 20_000
PAIRS = {
    "hard": (Hard(1.0), Hard(0.6)),
    "soft": (Gaussian(0.5, 0.5), Gaussian(0.5, 0.5)),
    "soft, other noise": (Gaussian(0.5, 0.5), Gaussian(0.9, 0.8)),
    "fuzzy": (Gaussian(1e-4, 0.7), Gaussian(1e-4, 0.7)),
    "noise on hidden": (HiddenGaussian(0.5, 0.6), HiddenGaussian(0.5, 0.4)),
    "noise on logits": (LogitGaussian(0.5, 0.6), LogitGaussian(0.5, 0.6)),
    "noise on top-k": (LogitGaussian(0.5, 0.6, TOKENS), LogitGaussian(0.5, 0.6, TOKENS)),
}
every_pair = pytest.mark.parametrize(("p", "q"), PAIRS.values(), ids=PAIRS)


@pytest.fixture
def vocabulary():
    head, table = torch.randn(2, TOKENS + UNUSED, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return Vocabulary(head, table, size=TOKENS)


@pytest.fixture
def hidden():
    """Hidden states of two slightly different models at the same steps."""
    generator = torch.Generator().manual_seed(4)
    first = torch.randn(2, DIM, dtype=torch.float64, generator=generator)
    return first, first + 0.2 * torch.randn(2, DIM, dtype=torch.float64, generator=generator)


def keys(rows: int):
    return Keys(5, torch.zeros(rows, dtype=torch.int64), torch.arange(rows)).at(0, Stream.THOUGHT)


@every_pair
def test_the_closed_form_is_the_mean_of_samples(p, q, hidden, vocabulary):
    for row_p, row_q in zip(*hidden, strict=True):
        distributions = [thought.at(row.expand(SAMPLES, DIM), vocabulary) for thought, row in ((p, row_p), (q, row_q))]
        expected = kl(*distributions)
        if p == LogitGaussian(0.5, 0.6, TOKENS):  # values are listed in the order of each model's own logits
            order = [d.support[0].argsort() for d in distributions]
            distributions = [
                dataclasses.replace(d, location=d.location[:, o], support=d.support[:, o])
                for d, o in zip(distributions, order, strict=True)
            ]
        samples = sampled_kl(*distributions, keys(SAMPLES))
        error = samples.std() / SAMPLES**0.5
        assert abs(samples.mean() - expected[0]) < 6 * error + 1e-9
        assert expected[0] >= 0


@every_pair
def test_nothing_diverges_from_itself(p, q, hidden, vocabulary):
    del q
    assert kl(p.at(hidden[0], vocabulary), p.at(hidden[0], vocabulary)).abs().max() < 1e-9


@every_pair
def test_the_gradient_is_that_of_the_value(p, q, hidden, vocabulary):
    if p == Gaussian(1e-4, 0.7):
        pytest.skip("the mean is one embedding: its gradient is zero but for near ties")
    first = hidden[0].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda h: kl(p.at(h, vocabulary), q.at(hidden[1], vocabulary)), first)


def test_noise_on_other_logits_shares_no_value(hidden, vocabulary):
    thought = LogitGaussian(0.5, 0.6, 2)
    ahead, behind = (thought.at(sign * hidden[0], vocabulary) for sign in (1, -1))
    assert kl(ahead, behind).isinf().all()


@pytest.mark.parametrize("thoughts", [(None, TOKENS), (TOKENS, None)])
def test_noise_on_all_logits_does_not_compare_with_noise_on_as_many_sorted_ones(thoughts, hidden, vocabulary):
    p, q = (LogitGaussian(0.5, 0.6, top_k).at(hidden[0], vocabulary) for top_k in thoughts)
    with pytest.raises(ValueError, match="noise in different places"):
        kl(p, q)


def test_a_pair_without_a_closed_form_needs_a_sample(hidden, vocabulary):
    p, q = Hard().at(hidden[0], vocabulary), Gaussian(0.5, 0.5).at(hidden[1], vocabulary)
    with pytest.raises(ValueError, match=r"no closed form of KL\(HardDistribution \|\| GaussianDistribution\)"):
        kl(p, q)
    soft = Gaussian(0.5, 0.5).at(hidden[0], vocabulary)
    with pytest.raises(ValueError, match="keys"):
        kl(soft, p)
    hidden_noise = HiddenGaussian(0.5, 0.5).at(hidden[0], vocabulary)
    estimate = kl(soft, hidden_noise, keys(2))  # values of both have the same shape here
    assert torch.equal(estimate, sampled_kl(soft, hidden_noise, keys(2)))


@pytest.mark.parametrize("thought", [Hard(0.0), Gaussian(0.5, 0.0)])
def test_thoughts_without_randomness_have_none(thought, hidden, vocabulary):
    with pytest.raises(ValueError, match="is 0"):
        kl(thought.at(hidden[0], vocabulary), thought.at(hidden[1], vocabulary))
