"""A batch to train on, and training runs of a tiny random model in processes that can be killed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from softtokens.config.thought import ThoughtConfig
from softtokens.models.hf import HFPolicy
from softtokens.rollout.batches import sample_problems
from softtokens.rollout.limits import Limits
from softtokens.rollout.record import Rollout
from softtokens.thoughts import Thought, build_thought
from softtokens.train import gradient
from softtokens.train.gradient import Gradient
from softtokens.train.objective import TermWeights, leave_one_out
from softtokens.train.weights import Weights
from softtokens.types import Problem
from train import driver

QUESTIONS = ["Tom has 4 apples.", "3 Tom", "Tom has 12 apples. so.", "so. 12", "apples", "User has 4."]


@dataclasses.dataclass(frozen=True)
class Batch:
    policy: HFPolicy
    thought: Thought
    rollout: Rollout
    advantages: torch.Tensor

    @property
    def parameters(self) -> list[torch.Tensor]:
        return list(self.policy.model.parameters())

    def accumulate(self, terms: TermWeights, weights: Weights | None = None, **options) -> Gradient:
        """Into `.grad` of the parameters, or of those of other weights."""
        batch = gradient.Batch(self.thought, self.rollout, self.advantages, self.rollout.rows)
        return gradient.accumulate_gradient(weights or Weights(self.policy), batch, terms, **options)


@pytest.fixture
def make_batch(make_policy):
    """Rollouts of two problems in groups of three (an odd size), with rewards that differ."""

    def make(mode: str = "soft", policy: HFPolicy | None = None, group: int = 3) -> Batch:
        policy = policy or make_policy("llama-untied")  # tied, a random model repeats its last token for ever
        thought = build_thought(ThoughtConfig(mode=mode), policy.embedding_rms)
        problems = [Problem(i, f"User: {QUESTIONS[i]} Assistant:", "3") for i in (0, 1)]
        rollout = sample_problems(policy, thought, problems, [range(group)] * 2, Limits(7, 5), seed=3)
        rewards = torch.tensor([[100.0, 10.0, 0.0, 10.0][:group], [0.0, 0.0, 10.0, 0.0][:group]])
        return Batch(policy, thought, rollout, leave_one_out(rewards).flatten())

    return make


@pytest.fixture(scope="session")
def model_folder(make_policy, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_policy("llama-untied").save(folder)
    return folder


@pytest.fixture(scope="session")
def data_file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("data") / "problems.jsonl"
    file.write_text("".join(json.dumps({"question": q, "answer": str(i)}) + "\n" for i, q in enumerate(QUESTIONS)))
    return file


@pytest.fixture
def flags(model_folder, data_file):
    """Flags of a run of eight steps that takes a second, saved every second step."""

    def make(output: Path, *more: str) -> list[str]:
        settings = {
            "output": output,
            "model": model_folder,
            "task": data_file,
            "template": "User: {question}",
            "grader": "exact",
            "validation": data_file,
            "validation-problems": 4,
            "validate-every": 3,
            "save-every": 2,
            "steps": 8,
            "group-size": 3,
            "max-thought-steps": 5,
            "max-answer-tokens": 4,
            "learning-rate": 1e-3,
            "warmup-steps": 2,
            "term-norms-every": 3,
            "seed": 5,
            "device": "cpu",
        }
        return ["train", *(part for name, value in settings.items() for part in (f"--{name}", str(value))), *more]

    return make


@pytest.fixture
def text_rewards(monkeypatch):
    """In this process, the rewards that the driver gives in its own."""
    driver.reward_texts(monkeypatch.setattr)


@pytest.fixture
def start(tmp_path):
    """Start the command line in a process of its own, after running the lines of `hook` there."""
    running: list[subprocess.Popen] = []

    def start(arguments: list[str], hook: str = "", **environment: str) -> subprocess.Popen:
        file = tmp_path / f"hook{len(running)}.py"
        file.write_text(hook)
        process = subprocess.Popen(
            [sys.executable, driver.__file__, str(torch.get_num_threads()), str(file), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=driver.ENVIRONMENT | environment,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def wait_for():
    """Wait until a function of no arguments is true, while a process runs."""

    def wait(condition, process: subprocess.Popen) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)

    return wait
