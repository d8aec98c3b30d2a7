"""Drawing tokens and mixing embeddings of a batch of logits."""

from __future__ import annotations

import math

import pytest
import torch

from softtokens.ops.mixture import arg_max, draw, draw_tokens, mixture_of, tempered_softmax
from softtokens.ops.random import Keys, Stream
from softtokens.ops.vocabulary import Vocabulary

SIZES = [1, 2, 100, 127, 128, 129, 255, 256, 300, 1000]


def logits_of(rows, vocab, *, dtype=torch.float32, seed=0):
    return 3 * torch.randn(rows, vocab, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def keys(rows, seed=0):
    return Keys(seed, torch.arange(rows), torch.arange(rows)).at(0, Stream.ANSWER)


@pytest.mark.parametrize("vocab", SIZES)
def test_arg_max_is_the_first_largest(vocab):
    logits = logits_of(50, vocab)
    assert torch.equal(arg_max(logits), logits.argmax(-1))
    tied = logits.round()
    expected = [row.index(max(row)) for row in tied.tolist()]
    assert arg_max(tied).tolist() == expected
    assert arg_max(torch.full((3, vocab), float("-inf"))).tolist() == [0, 0, 0]


@pytest.mark.parametrize("vocab", SIZES)
def test_two_stages_draw_what_one_sum_over_everything_draws(vocab):
    weights = logits_of(400, vocab, dtype=torch.float64).exp()
    uniform = torch.rand(400, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cumulative = weights.cumsum(-1)
    expected = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0]
    assert torch.equal(draw(weights, uniform), expected)


@pytest.mark.parametrize("vocab", SIZES)
@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2.0**-52])
def test_impossible_tokens_are_never_drawn(vocab, uniform):
    weights = torch.zeros(5, vocab)
    only = torch.tensor([0, vocab // 3, vocab // 2, vocab - 1, vocab - 1])
    weights[torch.arange(5), only] = 1e-30
    assert torch.equal(draw(weights, torch.full((5,), uniform, dtype=torch.float64)), only)


def test_tokens_come_as_often_as_their_probability():
    rows, vocab = 200_000, 300
    logits = logits_of(1, vocab).expand(rows, vocab)
    token, log_prob, broken = draw_tokens(logits, 0.7, keys(rows))
    p = tempered_softmax(logits[:1], 0.7)[0].double()
    counts = torch.bincount(token, minlength=vocab).double()
    often = p * rows > 10
    chi_square = ((counts - p * rows).square() / (p * rows))[often].sum()
    freedom = int(often.sum()) - 1
    assert chi_square < freedom + 6 * math.sqrt(2 * freedom)  # six standard deviations: below 1e-6 by chance
    torch.testing.assert_close(log_prob, p.log().float()[token], rtol=1e-4, atol=1e-4)
    assert not broken.any()


def test_temperatures_by_row():
    logits = logits_of(6, 200)
    temperature = torch.tensor([0.0, 1.0, 0.5, 0.0, 2.0, 1.0])
    token, log_prob, _ = draw_tokens(logits, temperature, keys(6))
    for row, t in enumerate(temperature.tolist()):
        alone, its_log_prob, _ = draw_tokens(logits, t, keys(6))
        assert token[row] == alone[row]
        torch.testing.assert_close(log_prob[row], its_log_prob[row])
    assert token[0] == logits[0].argmax() and log_prob[0] == 0


@pytest.mark.parametrize("temperature", [0.0, 1.0, torch.tensor([1.0, 0.0, 1.0, 1.0])], ids=str)
def test_rows_that_are_no_numbers_are_marked_and_do_no_harm(temperature):
    logits = logits_of(4, 300)
    logits[1] = float("nan")
    logits[2, 7] = float("inf")
    logits[3] = float("-inf")
    token, _, broken = draw_tokens(logits, temperature, keys(4))
    assert broken.tolist() == [False, True, True, True]
    assert (token < 300).all()
    alone, _, _ = draw_tokens(logits[:1], temperature if not torch.is_tensor(temperature) else 1.0, keys(1))
    assert token[0] == alone[0]


@pytest.mark.parametrize("tau", [0.5, 1e-4])
def test_mixture_of_logits(tau):
    vocabulary = Vocabulary(torch.randn(300, 8), torch.randn(300, 8), size=300, table_scale=2.0)
    logits = logits_of(16, 300)
    expected = tempered_softmax(logits, tau) @ vocabulary.table * 2.0
    assert torch.equal(mixture_of(logits, tau, vocabulary), expected)
    logits[3, :2] = logits[3].max() + 1  # a tie: half of each
    mixed = mixture_of(logits, tau, vocabulary)
    if tau < 0.1:
        torch.testing.assert_close(mixed[3], vocabulary.table[:2].sum(0))
