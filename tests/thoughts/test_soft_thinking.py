"""Soft thinking is the deterministic mixture of a few tokens, and nothing that can be trained."""

import pytest
import torch

from softtokens.config.signal import SignalConfig
from softtokens.config.thought import ThoughtConfig
from softtokens.config.train import TrainConfig
from softtokens.ops.random import Keys, Stream
from softtokens.ops.vocabulary import Vocabulary
from softtokens.thoughts import SoftThinking, build_thought
from softtokens.types import UserError


@pytest.fixture
def distribution():
    head, table = torch.randn(2, 12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    hidden = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    return SoftThinking(4, 0.7).at(hidden, Vocabulary(head, table, size=9))


@pytest.fixture
def keys():
    return Keys(5, torch.arange(3), torch.arange(3)).at(0, Stream.THOUGHT)


def test_it_feeds_the_mixture_of_the_likeliest_tokens(distribution, keys):
    drawn = distribution.draw(keys)
    values, tokens = distribution.logits[:, :9].topk(4)
    weights = torch.softmax(values / 0.7, -1)
    expected = (weights[..., None] * distribution.vocabulary.table[tokens]).sum(1)
    torch.testing.assert_close(distribution.thought.fed(drawn, distribution.vocabulary), expected)
    torch.testing.assert_close(distribution.embed(distribution.sample(keys)), expected)
    torch.testing.assert_close(distribution.embed(distribution.mean), expected)
    assert torch.equal(drawn.token, tokens[:, 0])
    assert not drawn.log_prob.any() and not distribution.noise_length(drawn).any()


def test_it_has_no_likelihood(distribution, keys):
    drawn = distribution.draw(keys)
    for ask in (
        distribution.entropy,
        lambda: distribution.log_prob(distribution.mode),
        lambda: distribution.surrogate(drawn),
        lambda: distribution.stored_log_prob(drawn),
    ):
        with pytest.raises(ValueError, match="no likelihood"):
            ask()


def test_training_is_refused():
    thought = ThoughtConfig("soft-thinking")
    assert isinstance(build_thought(thought, 1.0), SoftThinking)
    with pytest.raises(UserError, match="soft-thinking draws nothing"):
        TrainConfig("run", thought=thought)
    with pytest.raises(UserError, match="soft-thinking draws nothing"):
        SignalConfig(modes=("hard", "soft-thinking"))
