"""A sampled token blended with the likeliest ones: the published weights, and hard thoughts in the limit."""

import math

import pytest
import torch

from softtokens.ops.random import Keys, Stream
from softtokens.ops.vocabulary import Vocabulary
from softtokens.thoughts import Hard, MixtureOfInputs, kl


@pytest.fixture
def vocabulary():
    head, table = torch.randn(2, 12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return Vocabulary(head, table, size=9)


@pytest.fixture
def hidden():
    return torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def keys():
    return Keys(5, torch.arange(40), torch.arange(40)).at(0, Stream.THOUGHT)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_weights_are_those_of_the_paper(vocabulary, hidden, keys, beta):
    """Over all tokens: w_i = (h q_i + (beta + 1 - h) [i = y]) / (beta + 1), whether y is likely or not."""
    thought = MixtureOfInputs(4, beta, 0.8)
    distribution = thought.at(hidden, vocabulary)
    drawn = distribution.draw(keys)
    p = torch.softmax(distribution.logits[:, :9] / 0.8, -1)
    likeliest = torch.zeros_like(p).scatter(-1, p.topk(4).indices, 1.0)
    q = p * likeliest / (p * likeliest).sum(-1, keepdim=True)
    h = -torch.xlogy(q, q).sum(-1, keepdim=True) / math.log(4)
    weights = (h * q + (beta + 1 - h) * torch.nn.functional.one_hot(drawn.token, 9)) / (beta + 1)
    torch.testing.assert_close(thought.fed(drawn, vocabulary), weights @ vocabulary.table[:9])
    is_among = likeliest.gather(-1, drawn.token[:, None]) > 0
    assert is_among.any() and not is_among.all()


def test_the_token_is_that_of_hard(vocabulary, hidden, keys):
    ours, theirs = MixtureOfInputs(4, 1.0, 0.8).at(hidden, vocabulary), Hard(0.8).at(hidden, vocabulary)
    drawn, expected = ours.draw(keys), theirs.draw(keys)
    assert torch.equal(drawn.token, expected.token) and torch.equal(drawn.log_prob, expected.log_prob)
    moved = MixtureOfInputs(4, 1.0, 0.8).at(-hidden, vocabulary)
    torch.testing.assert_close(kl(ours, moved), kl(theirs, Hard(0.8).at(-hidden, vocabulary)))


def test_a_large_beta_and_a_certain_model_are_hard(vocabulary, hidden, keys):
    thought = MixtureOfInputs(4, 1e12)
    drawn = thought.at(hidden, vocabulary).draw(keys)
    torch.testing.assert_close(thought.fed(drawn, vocabulary), vocabulary.embed(drawn.token))
    thought, certain = MixtureOfInputs(4, 1.0), hidden * 1e4
    drawn = thought.at(certain, vocabulary).draw(keys)
    torch.testing.assert_close(thought.fed(drawn, vocabulary), vocabulary.embed(drawn.token))


def test_greedy_blends_the_arg_max_token(vocabulary, hidden, keys):
    thought = MixtureOfInputs(4, 1.0, is_greedy=True)
    distribution = thought.at(hidden, vocabulary)
    drawn = distribution.draw(keys)
    assert torch.equal(drawn.token, distribution.shadow) and not drawn.log_prob.any()
    torch.testing.assert_close(thought.fed(drawn, vocabulary), distribution.embed(distribution.mode))
    assert (thought.fed(drawn, vocabulary) - vocabulary.embed(drawn.token)).norm(dim=-1).max() > 0.1
