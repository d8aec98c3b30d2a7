"""Gumbel thoughts against noise drawn for every token, against integrals, and in their limits."""

import dataclasses
import math

import pytest
import torch

from softtokens.ops.random import Keys, Stream
from softtokens.ops.vocabulary import Vocabulary
from softtokens.thoughts import Gumbel, Hard, selected
from softtokens.types import UserError

ROWS = 20_000


@pytest.fixture
def vocabulary():
    head, table = torch.randn(2, 12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return Vocabulary(head, table, size=7)


@pytest.fixture
def hidden():
    return torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def keys(rows, step=0):
    return Keys(5, torch.arange(rows) // 7, torch.arange(rows) % 7).at(step, Stream.THOUGHT)


def many(thought, hidden, vocabulary, rows=ROWS):
    return thought.at(hidden[:1].expand(rows, -1), vocabulary)


@pytest.mark.parametrize("top_k", [1, 3, 7])
def test_samples_are_those_of_noise_on_every_token(hidden, vocabulary, top_k):
    """The largest of log p + Gumbel noise, drawn here the obvious way: the same tokens, differences and covariances."""
    distribution = many(Gumbel(top_k, 0.3, 0.8), hidden, vocabulary)
    log_p = torch.log_softmax(distribution.logits[0, :7] / 0.8, -1)
    uniform = torch.rand(ROWS, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    noisy = log_p - (-uniform.log()).log()
    values, tokens = noisy.topk(top_k, -1)
    drawn = distribution.draw(keys(ROWS))
    ours = [drawn.stored["tokens"], 0.3 * drawn.stored["log_weights"]]
    theirs = [tokens, values]
    assert (ours[1][:, 1:] <= ours[1][:, :-1]).all()  # the heaviest first
    ours[1], theirs[1] = (d - d[:, :1] for _, d in (ours, theirs))
    for place in range(top_k):
        a, b = (torch.bincount(x[0][:, place], minlength=7).double() / ROWS for x in (ours, theirs))
        assert (a - b).abs().max() < 6 * math.sqrt(2 * 0.25 / ROWS)
        x, y = ours[1][:, place], theirs[1][:, place]
        error = math.sqrt(2 / ROWS) * float(y.std())
        assert abs(x.mean() - y.mean()) <= 6 * error + 1e-12
        quantiles = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
        share = (x[:, None] <= y.quantile(quantiles)).double().mean(0)
        if place:
            assert (share - quantiles).abs().max() < 6 * math.sqrt(2 * 0.25 / ROWS)


def test_the_density_integrates_to_one_over_each_first_token(hidden, vocabulary):
    """For k = 2: over the second token and the difference, the probability of the first token is left."""
    thought = Gumbel(2, 0.3, 0.8)
    p = torch.softmax(thought.at(hidden[:1], vocabulary).logits[0, :7] / 0.8, -1)
    d = torch.linspace(-40, 0, 40_001, dtype=torch.float64)
    for first in range(7):
        total = 0.0
        for second in [token for token in range(7) if token != first]:
            tokens = torch.tensor([[first, second]]).expand(len(d), 2)
            log_weights = torch.stack((torch.zeros_like(d), d), -1) / 0.3
            distribution = many(thought, hidden, vocabulary, len(d))
            value = selected.as_value(tokens, log_weights, distribution.logits)
            total += float(torch.trapezoid(distribution.log_prob(value).exp(), d))
        assert total == pytest.approx(float(p[first]), rel=1e-5)


@pytest.mark.parametrize("top_k", [2, 4, 7])
def test_the_density_is_that_of_all_noise_with_the_shift_integrated_out(hidden, vocabulary, top_k):
    """The density of the k largest s is a product of Gumbel densities, and of distribution functions for the rest."""
    distribution = Gumbel(top_k, 0.3).at(hidden, vocabulary)
    value = distribution.sample(keys(2))
    log_p = torch.log_softmax(distribution.logits[:, :7], -1)
    is_fed = value[:, :7] > float("-inf")
    d = torch.where(is_fed, 0.3 * value[:, :7], 0.0)
    least = torch.where(is_fed, d, float("inf")).amin(-1, keepdim=True)
    shifts = torch.linspace(-30, 60, 90_001, dtype=torch.float64)
    total = []
    for row in range(2):
        s = d[row] + shifts[:, None]
        gumbel = -(s - log_p[row]) - torch.exp(-(s - log_p[row]))
        rest = -torch.exp(-(least[row] + shifts[:, None] - log_p[row]))
        joint = torch.where(is_fed[row], gumbel, rest).sum(-1)
        total.append(torch.trapezoid(joint.exp(), shifts).log())
    torch.testing.assert_close(distribution.log_prob(value), torch.stack(total), rtol=1e-6, atol=1e-6)


def test_the_ratio_to_another_model_has_mean_one(hidden, vocabulary):
    p = many(Gumbel(3, 0.5), hidden, vocabulary)
    q = many(Gumbel(3, 0.5), hidden + 0.1, vocabulary)
    value = p.sample(keys(ROWS))
    ratio = (q.log_prob(value) - p.log_prob(value)).exp()
    assert ratio.std() > 0.05
    assert abs(ratio.mean() - 1) < 6 * ratio.std() / math.sqrt(ROWS)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_one_token_is_hard(hidden, vocabulary, temperature):
    """The same token from the same keys, the same log-probability, the same embedding."""
    thoughts = Gumbel(1, 0.1, temperature), Hard(temperature)
    drawn, expected = (many(thought, hidden, vocabulary, 500).draw(keys(500)) for thought in thoughts)
    assert torch.equal(drawn.token, expected.token) and len(drawn.token.unique()) > 2
    torch.testing.assert_close(drawn.log_prob, expected.log_prob)
    torch.testing.assert_close(thoughts[0].fed(drawn, vocabulary), thoughts[1].fed(expected, vocabulary))


def test_a_small_weight_temperature_is_hard_sampling(hidden, vocabulary):
    """In what is fed, and in the score given the token: what else was drawn adds noise of mean zero."""
    rows = 60_000
    thought = Gumbel(4, 1e-5)
    leaf = hidden[:1].expand(rows, -1).clone().requires_grad_()
    distribution = thought.at(leaf, vocabulary)
    drawn = distribution.draw(keys(rows))
    hard = Hard(1.0).at(leaf, vocabulary)
    assert torch.equal(drawn.token, hard.sample(keys(rows)))
    apart = (thought.fed(drawn, vocabulary) - vocabulary.embed(drawn.token)).norm(dim=-1)
    assert (apart > 1e-3).double().mean() < 1e-3
    (ours,) = torch.autograd.grad(distribution.surrogate(drawn).sum(), leaf)
    (theirs,) = torch.autograd.grad(hard.surrogate(drawn).sum(), leaf)
    for token in drawn.token.unique():
        excess = (ours - theirs)[drawn.token == token]
        if len(excess) > 1000:
            assert (excess.mean(0).abs() < 6 * excess.std(0) / math.sqrt(len(excess))).all()
            assert excess.std() > 0.1


def test_tokens_of_negligible_probability_stay_finite(vocabulary):
    """Float32 weights of these tokens are zero, and their rates too."""
    single = dataclasses.replace(vocabulary, head=vocabulary.head.float(), table=vocabulary.table.float())
    logits = torch.tensor([[0.0, -300.0, -301.0, -500.0, -2000.0, -2001.0, -3000.0] + [float("-inf")] * 5])
    logits = logits.expand(50, -1).clone().requires_grad_()
    distribution = Gumbel(5, 0.1).at(torch.zeros(50, 6), single, logits)
    drawn = distribution.draw(keys(50))
    assert drawn.stored["log_weights"].isfinite().all() and drawn.log_prob.isfinite().all()
    assert (drawn.stored["tokens"].sort(-1).values[:, :4] == torch.arange(4)).all()
    (gradient,) = torch.autograd.grad(distribution.surrogate(drawn).sum(), logits)
    assert gradient.isfinite().all() and gradient.abs().max() < 20


def test_more_tokens_than_the_vocabulary_has_are_refused(hidden, vocabulary):
    with pytest.raises(UserError, match="top_k is 8; it must be at most 7"):
        Gumbel(8, 0.1).at(hidden, vocabulary).draw(keys(2))
