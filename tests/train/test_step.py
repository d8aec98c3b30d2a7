"""One update: the schedule, what is rejected, and that the update follows the loss."""

import dataclasses
import itertools
import json

import pytest
import torch

from softtokens.config.task import TaskConfig
from softtokens.config.thought import ThoughtConfig
from softtokens.config.train import TrainConfig
from softtokens.rewards.math import MathGrader
from softtokens.train import loop, validation
from softtokens.train import step as step_module
from softtokens.train.gradient import accumulate_gradient
from softtokens.train.loop import train
from softtokens.train.step import learning_rate
from softtokens.types import UserError


def test_learning_rate_warms_up_peaks_and_falls_to_zero():
    config = TrainConfig(steps=100, warmup_steps=20, learning_rate=6e-6)
    rates = [learning_rate(config, step) for step in range(101)]
    assert rates[0] == pytest.approx(6e-6 / 20)
    assert rates[9] == pytest.approx(6e-6 / 2)
    assert rates[19] == rates[20] == pytest.approx(6e-6)  # the end of the warm-up, the start of the cosine
    assert rates[60] == pytest.approx(3e-6)  # half-way down
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[100] == pytest.approx(0, abs=1e-20)
    assert min(rates[:100]) > 0  # every update has a positive rate


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 20), (5, 5), (7, 0)])
def test_learning_rate_of_short_runs(steps, warmup):
    config = TrainConfig(steps=steps, warmup_steps=warmup, learning_rate=1e-3)
    assert all(0 < learning_rate(config, step) <= 1e-3 for step in range(steps))


def config_for(model_folder, data_file, output, **changes):
    task = TaskConfig(name=str(data_file), template="User: {question}", grader="exact")
    defaults = dict(
        output=str(output), model=str(model_folder), task=task, steps=2, group_size=3, max_thought_steps=5,
        max_answer_tokens=4, learning_rate=1e-2, warmup_steps=0, validate_every=0, clip_norm=0.0, device="cpu",
    )  # fmt: skip
    return TrainConfig(**defaults | changes)


def by_length(completions, **columns):
    del columns
    return [float(len(completion)) for completion in completions]


@pytest.fixture
def recorded_parameters(monkeypatch):
    """Copies of the trainee's parameters before each update, and the trainee itself."""
    recorded, step = [], loop.train_step

    def spy(trainee, number):
        recorded.append((trainee, [p.detach().clone() for p in trainee.parameters]))
        return step(trainee, number)

    monkeypatch.setattr(loop, "train_step", spy)
    return recorded


def adam_first_step(before, gradient, rate):
    """AdamW's first update without decay: the rate times the sign, softened by epsilon."""
    return [p - rate * g / (g.abs() + 1e-8) for p, g in zip(before, gradient, strict=True)]


def test_a_step_is_adamw_on_the_gradient_of_its_rollouts(
    model_folder, data_file, tmp_path, recorded_parameters, monkeypatch
):
    gradients = []

    def spy(*arguments, **options):
        returned = accumulate_gradient(*arguments, **options)
        gradients.append([p.grad.clone() for p in arguments[0].parameters.values()])
        return returned

    monkeypatch.setattr(step_module, "accumulate_gradient", spy)
    config = config_for(model_folder, data_file, tmp_path / "run")
    train(config, reward_func=by_length)
    (_, before), (_, after) = recorded_parameters
    torch.testing.assert_close(after, adam_first_step(before, gradients[0], 1e-2), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("clip", ["sum", "each"])
def test_the_gradient_norm_is_clipped(model_folder, data_file, tmp_path, monkeypatch, clip):
    norms = []
    step = torch.optim.AdamW.step

    def spy(optimizer, *arguments):
        norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in optimizer.param_groups[0]["params"]])))
        return step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    config = config_for(model_folder, data_file, tmp_path / "run", clip_norm=1e-3, clip=clip, term_norms_every=1)
    train(config, reward_func=by_length)
    assert len(norms) == 2
    assert all(0 < norm <= (1.001e-3 if clip == "sum" else 2.002e-3) for norm in norms)  # each of two terms: twice
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(line["grad_norm/thought"] > 1e-3 for line in lines)  # logged before clipping


@pytest.mark.parametrize("mode", ["hard", "soft", "fuzzy"])
def test_what_must_not_matter_to_a_run_does_not(model_folder, data_file, tmp_path, recorded_parameters, mode):
    ends = []
    for name, changes in {"whole": {}, "parts": {"tokens_per_backward": 30}, "apart": {"term_norms_every": 1}}.items():
        config = config_for(model_folder, data_file, tmp_path / name, thought=ThoughtConfig(mode=mode), steps=1)
        train(dataclasses.replace(config, **changes), reward_func=by_length)
        ends.append([p.detach().clone() for p in recorded_parameters[-1][0].parameters])
    # Adam's first step is nearly the sign of the gradient: entries of rounding size may go either way
    for other in ends[1:]:
        moved = sum(int(((a - b).abs() > 1e-4).sum()) for a, b in zip(ends[0], other, strict=True))
        assert moved < 0.01 * sum(p.numel() for p in ends[0])


def test_a_reward_function_and_a_listener(model_folder, data_file, tmp_path):
    heard = []
    config = config_for(model_folder, data_file, tmp_path / "run")
    run = train(config, reward_func=by_length, listener=lambda done, metrics: heard.append((done, metrics)))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [done for done, _ in heard] == [1, 2]
    assert [line["reward"] for line in lines] == [metrics["reward"] for _, metrics in heard]
    assert "verdict/right" not in lines[0]
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert [s["reward"] for s in samples] == [len(s["thoughts"] + s["answer"]) for s in samples]
    assert len(samples) == 2 * 2  # the first rollout of each problem of each step


def test_equal_rewards_make_no_update(model_folder, data_file, tmp_path, recorded_parameters):
    """For any value: 0.1 has no exact mean in float32, and Adam's momentum would continue by itself."""
    calls = []

    def flat_at_first_and_at_last(completions, **columns):
        del columns
        calls.append(1)
        return [0.1] * len(completions) if len(calls) != 2 else [float(i) for i in range(len(completions))]

    config = config_for(model_folder, data_file, tmp_path / "run", steps=4)
    run = train(config, reward_func=flat_at_first_and_at_last)
    before = [parameters for _, parameters in recorded_parameters]
    after = [p.detach() for p in recorded_parameters[-1][0].parameters]
    moved = [
        any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
        for first, second in itertools.pairwise([*before, after])
    ]
    assert moved == [False, True, False, False]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["no_spread"] for line in lines] == [1.0, 0.0, 1.0, 1.0]
    assert [line["grad_norm"] == 0 for line in lines] == [True, False, True, True]
    assert [line["skipped"] for line in lines] == [0.0] * 4


@pytest.mark.parametrize(("schedule", "half_way", "end"), [("cosine", 0.5, 0), ("linear", 0.5, 0), ("constant", 1, 1)])
def test_schedules(schedule, half_way, end):
    config = TrainConfig(steps=100, warmup_steps=20, learning_rate=1e-3, schedule=schedule)
    assert [learning_rate(config, step) for step in (9, 19, 20)] == pytest.approx([5e-4, 1e-3, 1e-3])
    assert learning_rate(config, 60) == pytest.approx(half_way * 1e-3)
    assert learning_rate(config, 100) == pytest.approx(end * 1e-3, abs=1e-12)


def test_problems_without_answers_train_with_a_reward_function_only(model_folder, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": "Say hello."}\n{"question": "Say something."}\n')
    config = config_for(model_folder, file, tmp_path / "run", steps=1)
    run = train(config, reward_func=by_length)
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert {sample["expected"] for sample in samples} == {None}
    with pytest.raises(UserError, match=r"no column 'answer'.*reward function of your own"):
        train(dataclasses.replace(config, output=str(tmp_path / "graded")))


def test_validation_has_the_grader_of_its_task(model_folder, data_file, tmp_path, monkeypatch):
    judges = []
    monkeypatch.setattr(validation, "count_right", lambda *a, **options: judges.append(a[4]) or [0] * len(a[2]))
    config = config_for(model_folder, data_file, tmp_path / "run", steps=1)
    task = TaskConfig(limit=4)  # arithmetic, which has the exact grader
    train(dataclasses.replace(config, task=task, validation=str(data_file), validate_every=1), reward_func=by_length)
    assert [type(judge) for judge in judges] == [MathGrader]
