"""The unrolled example computes what the library computes."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from softtokens import load_policy, load_problems
from softtokens.config.task import TaskConfig
from softtokens.config.thought import ThoughtConfig
from softtokens.config.train import TrainConfig
from softtokens.train.data import problems_of_step
from softtokens.train.loop import train

PROBLEMS, GROUP = 3, 8


@pytest.fixture(scope="module")
def loop():
    path = Path(__file__).parent.parent / "examples/loop.py"
    spec = importlib.util.spec_from_file_location("example_loop", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def gradients_of_steps():
    """The gradients at each optimizer step, one list per step."""
    steps = []

    def note(optimizer, args, kwargs):
        steps.append([p.grad.clone() for group in optimizer.param_groups for p in group["params"]])

    handle = register_optimizer_step_pre_hook(note)
    yield steps
    handle.remove()


@pytest.mark.parametrize(("mode", "tau"), [("hard", 1.0), ("soft", 0.5), ("fuzzy", 0.1)])
@pytest.mark.parametrize("limit", [64, 27])  # 27 cuts many chains short
def test_its_gradient_is_that_of_a_training_step(loop, gradients_of_steps, tmp_path, mode, tau, limit):
    s = loop.Settings(mode, tau, problems=PROBLEMS, group=GROUP, max_thoughts=limit, clip_norm=0.0, seed=3)
    config = TrainConfig(
        output=str(tmp_path / "run"), task=TaskConfig("arithmetic", limit=50), thought=ThoughtConfig(mode, tau=tau),
        steps=1, problems_per_step=PROBLEMS, group_size=GROUP, max_thought_steps=limit, max_answer_tokens=s.max_answer,
        clip_norm=0.0, validate_every=0, seed=s.seed, device="cpu",
    )  # fmt: skip
    train(config)
    policy = load_policy("tiny")
    problems = load_problems("arithmetic", split="train", limit=50)
    chosen = [problem for problem, _ in problems_of_step(problems, 0, PROBLEMS, s.seed)]
    rewards = loop.gradient(policy.model, policy.tokenizer, chosen, s.gamma * policy.embedding_rms, s)

    assert len({*rewards.flatten().tolist()}) > 1
    [expected] = gradients_of_steps
    norm = torch.cat([gradient.flatten() for gradient in expected]).norm()
    assert norm > 1
    for parameter, gradient in zip(policy.model.parameters(), expected, strict=True):
        assert (parameter.grad - gradient).norm() < 1e-3 * norm


def test_settings_are_those_of_the_paper(loop):
    """Its defaults equal the library's, except for the sizes of the run."""
    config, s = TrainConfig(), loop.Settings()
    assert (s.mode, s.gamma, s.thought_weight, s.answer_weight, s.clip_norm) == (
        config.thought.mode, config.thought.gamma, config.thought_weight, config.answer_weight, config.clip_norm,
    )  # fmt: skip
    assert dataclasses.asdict(config.reward) == loop.REWARD | {"functions": (), "weights": ()}
    assert all(loop.TEMPERATURE[mode] == ThoughtConfig(mode).temperature for mode in loop.TEMPERATURE)
