"""Thoughts by name are the ones the paper describes."""

import pytest

from softtokens.config.thought import ThoughtConfig
from softtokens.thoughts import Gaussian, Hard, HiddenGaussian, LogitGaussian, build_thought, thought_setting


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hard-greedy", Hard(0.0)),
        ("hard-sample", Hard(1.0)),
        ("soft-greedy", Gaussian(0.5, 0.0)),
        ("soft-sample", Gaussian(0.5, 0.33 * 2)),
        ("fuzzy-greedy", Gaussian(1e-4, 0.0)),
        ("fuzzy-sample", Gaussian(1e-4, 0.33 * 2)),
    ],
)
def test_the_six_settings(name, expected):
    assert thought_setting(name, embedding_rms=2.0) == expected


def test_noise_placements():
    def build(noise):
        return build_thought(ThoughtConfig(mode="soft", noise=noise, gamma=0.5, top_k=7, tau=0.2), embedding_rms=2.0)

    assert build("input") == Gaussian(0.2, 1.0)
    assert build("hidden") == HiddenGaussian(0.2, 0.5)
    assert build("logits") == LogitGaussian(0.2, 0.5)
    assert build("top-k") == LogitGaussian(0.2, 0.5, 7)


def test_unknown_setting_is_refused():
    with pytest.raises(ValueError, match="soft-greedy"):
        thought_setting("soft", 1.0)
