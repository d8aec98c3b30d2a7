"""Several tokens at once: with one token it is hard, bit for bit; with several it is independent draws."""

import dataclasses
import math

import pytest
import torch

from softtokens.ops import reference
from softtokens.ops.random import Keys, Stream
from softtokens.ops.vocabulary import Vocabulary
from softtokens.rollout.decode import sample_rollout
from softtokens.rollout.limits import Limits
from softtokens.rollout.replay import replay
from softtokens.thoughts import Hard, Multiplex, kl

LIMITS = Limits(8, 4)


@pytest.fixture
def vocabulary():
    head, table = torch.randn(2, 12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return Vocabulary(head, table, size=9)


@pytest.fixture
def hidden():
    return torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def keys(rows):
    return Keys(5, torch.arange(rows) // 7, torch.arange(rows) % 7)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_one_token_is_hard_bit_for_bit(make_policy, prompts, temperature):
    """Rollout, replay and gradient."""
    policy = make_policy("llama")
    of_row, parameters = [i // 3 for i in range(3 * len(prompts))], list(policy.model.parameters())
    results = []
    for thought in (Multiplex(1, temperature), Hard(temperature)):
        rollout = sample_rollout(policy, thought, prompts, of_row, keys(len(of_row)), LIMITS)
        again = replay(policy, thought, rollout)
        loss = again.thought_surrogate.sum() + again.answer_log_prob.sum()
        results.append((rollout, again, torch.autograd.grad(loss, parameters)))
    (ours, our_replay, our_gradients), (theirs, their_replay, their_gradients) = results
    assert torch.equal(ours.ids, theirs.ids) and torch.equal(ours.kind, theirs.kind)
    assert ours.log_prob.any() and torch.equal(ours.log_prob, theirs.log_prob)
    assert torch.equal(our_replay.thought_log_prob, their_replay.thought_log_prob)
    for our, their in zip(our_gradients, their_gradients, strict=True):
        # embeddings are looked up in another place, so their gradients are summed in another order
        torch.testing.assert_close(our, their, rtol=1e-5, atol=1e-7 * float(their.abs().max()))


def test_the_first_token_is_that_of_hard_and_the_others_are_independent(vocabulary, hidden):
    rows = 30_000
    distribution = Multiplex(2, 0.8).at(hidden[:1].expand(rows, -1), vocabulary)
    step = keys(rows).at(0, Stream.THOUGHT)
    tokens = distribution.sample(step)
    assert torch.equal(tokens[:, 0], Hard(0.8).at(hidden[:1].expand(rows, -1), vocabulary).sample(step))
    p = torch.softmax(distribution.logits[0] / 0.8, -1)
    joint = torch.bincount(tokens[:, 0] * 12 + tokens[:, 1], minlength=144).double().view(12, 12) / rows
    assert (joint - p[:, None] * p).abs().max() < 6 * 0.5 / math.sqrt(rows)


def test_log_prob_and_fed_vector_are_the_closed_forms(vocabulary, hidden):
    tokens = torch.tensor([[1, 4, 1], [8, 0, 3]])
    distribution = Multiplex(3, 0.7).at(hidden, vocabulary)
    expected = sum(reference.token_log_prob(hidden, vocabulary.head[:9], slot, 0.7) for slot in tokens.T)
    torch.testing.assert_close(distribution.log_prob(tokens), expected)
    table = vocabulary.table
    torch.testing.assert_close(distribution.embed(tokens)[0], (2 * table[1] + table[4]) / 3)


def test_what_was_fed_has_the_gradient_of_its_tokens(vocabulary, hidden):
    table = vocabulary.table.clone().requires_grad_()
    words = dataclasses.replace(vocabulary, table=table)
    thought = Multiplex(3)
    drawn = thought.at(hidden, words).draw(keys(2).at(0, Stream.THOUGHT))
    (gradient,) = torch.autograd.grad(thought.fed(drawn, words).sum(), table)
    counts = torch.bincount(drawn.stored["tokens"].flatten(), minlength=12)
    torch.testing.assert_close(gradient, (counts / 3).double()[:, None].expand(-1, 6))


def test_kl_is_that_of_each_token_times_their_number(vocabulary, hidden):
    p, q = (Multiplex(3, 0.7).at(hidden[i : i + 1], vocabulary) for i in (0, 1))
    torch.testing.assert_close(kl(p, q), 3 * kl(p.of_one, q.of_one))
    rows = 20_000
    many_p, many_q = (Multiplex(3, 0.7).at(hidden[i : i + 1].expand(rows, -1), vocabulary) for i in (0, 1))
    value = many_p.sample(keys(rows).at(0, Stream.THOUGHT))
    sampled = many_p.log_prob(value) - many_q.log_prob(value)
    assert abs(sampled.mean() - kl(p, q)[0]) < 6 * sampled.std() / math.sqrt(rows)
    with pytest.raises(ValueError, match="widths 3 and 2"):
        kl(p, Multiplex(2, 0.7).at(hidden[1:], vocabulary))
