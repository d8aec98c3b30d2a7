"""The signal measured between halves of a batch; measuring does not change the update."""

import dataclasses
import json
import math

import pytest
import torch

from softtokens.config.thought import ThoughtConfig
from softtokens.train import gradient, gradient_signal
from softtokens.train.gradient_signal import signal_of_halves
from softtokens.train.loop import train
from softtokens.train.objective import TermWeights
from softtokens.train.weights import Weights

from .test_gradient import gradient_of
from .test_step import by_length, config_for


def flat(gradients) -> torch.Tensor:
    return torch.cat([g.flatten() for g in gradients]).double()


def measured(batch, in_first, **options) -> dict[str, float]:
    rows = gradient.Batch(batch.thought, batch.rollout, batch.advantages, batch.rollout.rows)
    return signal_of_halves(Weights(batch.policy), rows, in_first, TermWeights(), **options)


def of_half(batch, chosen) -> torch.Tensor:
    """The gradient of a half as if it were the whole batch."""
    rows = chosen.nonzero()[:, 0]
    half = dataclasses.replace(batch, rollout=batch.rollout.take(rows), advantages=batch.advantages[rows])
    return flat(gradient_of(half)[0])


@pytest.mark.parametrize("tokens", [None, 30])
@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_cosine_and_noise_scale_are_those_of_the_two_gradients(make_batch, mode, tokens):
    batch = make_batch(mode)
    first = torch.tensor([True, True, True, False, False, False])
    g, h = of_half(batch, first), of_half(batch, ~first)
    metrics = measured(batch, first, tokens_per_backward=tokens)
    assert metrics["signal/cosine"] == pytest.approx(float(g @ h / (g.norm() * h.norm())), abs=0.01)
    signal, noise = g @ h, 3 * ((g @ g + h @ h) / 2 - g @ h)
    assert abs(signal) > 0.02 * g.norm() * h.norm()  # else the sketch could not tell its sign
    if signal > 0:
        assert metrics["signal/noise_scale"] == pytest.approx(float(noise / signal), rel=0.2)
    else:
        assert math.isnan(metrics["signal/noise_scale"])
    assert all(p.grad is None for p in batch.parameters)


def test_halves_of_different_size_are_each_a_mean_of_their_own(make_batch):
    batch = make_batch("hard")
    first = torch.tensor([True, True, False, False, False, False])
    g, h = of_half(batch, first), of_half(batch, ~first)
    metrics, signal = measured(batch, first), float(g @ h)
    noise = (2 * (float(g @ g) - signal) + 4 * (float(h @ h) - signal)) / 2
    assert metrics["signal/cosine"] == pytest.approx(signal / float(g.norm() * h.norm()), abs=0.01)
    assert math.isnan(metrics["signal/noise_scale"]) or metrics["signal/noise_scale"] == pytest.approx(
        noise / signal, rel=0.2
    )


def test_a_half_without_spread_agrees_with_nothing(make_batch):
    batch = make_batch("soft")
    first = torch.tensor([True, True, True, False, False, False])
    metrics = measured(dataclasses.replace(batch, advantages=batch.advantages * first), first)
    assert metrics["signal/cosine"] == 0.0
    assert math.isnan(metrics["signal/noise_scale"])


def test_a_process_without_rows_of_a_half_runs_one_for_nothing(make_batch):
    batch = make_batch("soft")
    rows = gradient.Batch(batch.thought, batch.rollout, batch.advantages, batch.rollout.rows)
    nothing = gradient_signal._only(rows, torch.zeros(6, dtype=torch.bool))
    assert nothing.rollout.rows == 1
    gradient.accumulate_gradient(Weights(batch.policy), nothing, TermWeights())
    assert all(p.grad is None or not p.grad.any() for p in batch.parameters)
    for parameter in batch.parameters:
        parameter.grad = None


@pytest.mark.parametrize("changes", [{}, {"clip": "each", "clip_norm": 1.0}, {"clip_spikes": True, "spike_norm": 0.5}])
@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_the_update_is_the_same_to_the_last_bit(model_folder, data_file, tmp_path, mode, changes):
    ends = []
    for every in (0, 2):
        config = config_for(
            model_folder, data_file, tmp_path / str(every), thought=ThoughtConfig(mode=mode), signal_every=every,
            steps=3, save_every=3, **changes,
        )  # fmt: skip
        run = train(config, reward_func=by_length)
        ends.append((run / "checkpoints/last/model.safetensors").read_bytes())
    assert ends[0] == ends[1]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert ["signal/cosine" in line for line in lines] == [True, False, True]
    assert all(-1 <= line["signal/cosine"] <= 1 for line in lines[::2])
    assert all(line["signal/noise_scale"] is None or line["signal/noise_scale"] >= 0 for line in lines[::2])


def test_halves_are_of_whole_problems(model_folder, data_file, tmp_path, monkeypatch):
    """Whatever the order of rows, and with an odd number of problems."""
    problems_of_halves = []

    def spy(weights, batch, in_first, *arguments, **options):
        del weights, arguments, options
        problem = batch.rollout.keys.problem
        problems_of_halves.append((problem[in_first].tolist(), problem[~in_first].tolist()))
        return {}

    monkeypatch.setattr("softtokens.train.step.signal_of_halves", spy)
    train(
        config_for(model_folder, data_file, tmp_path / "run", problems_per_step=3, signal_every=1),
        reward_func=by_length,
    )
    for first, second in problems_of_halves:
        assert (len(first), len(second)) == (3, 6)
        assert (len(set(first)), len(set(second))) == (1, 2)
        assert not set(first) & set(second)
