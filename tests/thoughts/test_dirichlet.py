"""Dirichlet thoughts against torch's distribution, their moments, and in their limits."""

import math

import pytest
import torch

from softtokens.ops.random import Keys, Stream
from softtokens.ops.vocabulary import Vocabulary
from softtokens.thoughts import Dirichlet, SoftThinking, kl
from softtokens.types import UserError

ROWS = 20_000


@pytest.fixture
def vocabulary():
    head, table = torch.randn(2, 12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return Vocabulary(head, table, size=9)


@pytest.fixture
def hidden():
    return torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def keys(rows, step=0):
    return Keys(5, torch.arange(rows) // 7, torch.arange(rows) % 7).at(step, Stream.THOUGHT)


def many(thought, hidden, vocabulary, rows=ROWS):
    return thought.at(hidden[:1].expand(rows, -1), vocabulary)


def of_torch(distribution, concentration, temperature):
    """torch's distribution of the weights of the likeliest tokens."""
    top = distribution.logits[:, :9].topk(4).values
    return torch.distributions.Dirichlet(concentration * torch.softmax(top / temperature, -1))


@pytest.mark.parametrize("concentration", [0.7, 5.0, 200.0])
def test_density_is_that_of_torch_times_the_weights(hidden, vocabulary, concentration):
    distribution = Dirichlet(4, concentration, 0.8).at(hidden, vocabulary)
    tokens = distribution.logits[:, :9].topk(4).indices
    value = distribution.sample(keys(2))
    log_weights = value.gather(-1, tokens)
    assert (value > float("-inf")).sum() == 8 and log_weights.exp().sum(-1).allclose(torch.ones(2).double())
    expected = of_torch(distribution, concentration, 0.8).log_prob(log_weights.exp()) + log_weights.sum(-1)
    torch.testing.assert_close(distribution.log_prob(value), expected)


def test_the_density_integrates_to_one(hidden, vocabulary):
    """Two tokens have one log-ratio."""
    ratio = torch.linspace(-60, 60, 60_001, dtype=torch.float64)
    distribution = many(Dirichlet(2, 3.0), hidden, vocabulary, len(ratio))
    tokens = distribution.logits[:, :9].topk(2).indices
    value = torch.full_like(distribution.logits, float("-inf"))
    value.scatter_(-1, tokens, torch.log_softmax(torch.stack((ratio, torch.zeros_like(ratio)), -1), -1))
    assert float(torch.trapezoid(distribution.log_prob(value).exp(), ratio)) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("concentration", [0.7, 5.0, 200.0])
def test_sample_moments(hidden, vocabulary, concentration):
    """Of the weights, and of their logarithms."""
    distribution = many(Dirichlet(4, concentration, 0.8), hidden, vocabulary)
    value = distribution.sample(keys(ROWS))
    tokens = distribution.logits[0, :9].topk(4).indices
    weights, expected = value[:, tokens].exp(), of_torch(distribution, concentration, 0.8)
    error = expected.variance[0].sqrt() / math.sqrt(ROWS)
    assert ((weights.mean(0) - expected.mean[0]).abs() < 6 * error).all()
    squares = (weights - expected.mean[0]).square()
    assert ((squares.mean(0) - expected.variance[0]).abs() < 6 * squares.std(0) / math.sqrt(ROWS)).all()
    logs = value[:, tokens]
    assert ((logs.mean(0) - distribution.mean[0, tokens]).abs() < 6 * logs.std(0) / math.sqrt(ROWS)).all()
    assert (distribution.log_prob(distribution.mode) >= distribution.log_prob(value)).all()


def test_ratio_has_mean_one_and_kl_is_the_closed_form(hidden, vocabulary):
    p, q = many(Dirichlet(4, 5.0), hidden, vocabulary), many(Dirichlet(4, 5.0), hidden + 0.02, vocabulary)
    assert torch.equal(p.tokens.sort(-1).values, q.tokens.sort(-1).values)
    value = p.sample(keys(ROWS))
    log_ratio = q.log_prob(value) - p.log_prob(value)
    assert abs(log_ratio.exp().mean() - 1) < 6 * log_ratio.exp().std() / math.sqrt(ROWS)
    assert abs(-log_ratio.mean() - kl(p, q)[0]) < 6 * log_ratio.std() / math.sqrt(ROWS)
    ours = kl(p, q)[0]
    theirs = torch.distributions.kl_divergence(of_torch(p, 5.0, 1.0), of_torch_at(q, p.tokens, 5.0))[0]
    torch.testing.assert_close(ours, theirs)
    far = Dirichlet(4, 5.0).at(-hidden, vocabulary)
    assert kl(Dirichlet(4, 5.0).at(hidden, vocabulary), far).isinf().all()
    with pytest.raises(ValueError, match="top_k 4 and 3"):
        kl(p, Dirichlet(3, 5.0).at(hidden, vocabulary))


def of_torch_at(distribution, tokens, concentration):
    return torch.distributions.Dirichlet(concentration * torch.softmax(distribution.logits.gather(-1, tokens), -1))


def test_much_concentration_is_soft_thinking(hidden, vocabulary):
    thought, plain = Dirichlet(4, 1e10), SoftThinking(4)
    ours, theirs = (t.at(hidden, vocabulary).draw(keys(2)) for t in (thought, plain))
    assert torch.equal(ours.token, theirs.token)
    torch.testing.assert_close(thought.fed(ours, vocabulary), plain.fed(theirs, vocabulary), rtol=1e-3, atol=1e-4)
    assert 0 < float(thought.at(hidden, vocabulary).noise_length(ours).max()) < 1e-4


def test_little_concentration_is_hard_sampling_of_the_likeliest(hidden, vocabulary):
    thought = Dirichlet(4, 1e-6)
    distribution = many(thought, hidden, vocabulary)
    drawn = distribution.draw(keys(ROWS))
    apart = (thought.fed(drawn, vocabulary) - vocabulary.embed(drawn.token)).norm(dim=-1)
    assert (apart > 1e-3).double().mean() < 1e-3
    share = torch.bincount(drawn.token, minlength=9).double() / ROWS
    top, tokens = distribution.logits[0, :9].topk(4)
    assert (share[tokens] - torch.softmax(top, -1)).abs().max() < 6 * 0.5 / math.sqrt(ROWS)


def test_tokens_of_negligible_probability_stay_finite(vocabulary):
    """In float32, with parameters below the smallest number."""
    logits = torch.tensor([[0.0, -20.0, -300.0, -2000.0] + [-3000.0] * 5 + [float("-inf")] * 3]).expand(50, -1)
    leaf = logits.clone().requires_grad_()
    distribution = Dirichlet(4, 1.0).at(torch.zeros(50, 6), vocabulary, leaf)
    drawn = distribution.draw(keys(50))
    assert drawn.log_prob.isfinite().all() and drawn.stored["log_weights"].isfinite().all()
    assert drawn.log_prob.abs().max() < 200
    (gradient,) = torch.autograd.grad(distribution.surrogate(drawn).sum(), leaf)
    assert gradient.isfinite().all() and gradient.abs().max() < 20
    torch.testing.assert_close(distribution.stored_log_prob(drawn), drawn.log_prob)


def test_the_stored_tokens_are_scored_also_when_others_are_likeliest_now(hidden, vocabulary):
    thought = Dirichlet(4, 5.0)
    drawn = thought.at(hidden, vocabulary).draw(keys(2))
    moved = thought.at(-hidden, vocabulary)
    tokens, log_weights = drawn.stored["tokens"], drawn.stored["log_weights"]
    assert not torch.equal(moved.tokens.sort(-1).values, tokens.sort(-1).values)
    p = torch.softmax(moved.logits.gather(-1, tokens), -1)
    expected = torch.distributions.Dirichlet(5 * p).log_prob(log_weights.exp()) + log_weights.sum(-1)
    torch.testing.assert_close(moved.stored_log_prob(drawn), expected)


def test_more_tokens_than_the_vocabulary_has_are_refused(hidden, vocabulary):
    with pytest.raises(UserError, match="top_k is 10; it must be at most 9"):
        Dirichlet(10, 1.0).at(hidden, vocabulary).draw(keys(2))
