"""Fixtures of training: batches, and runs of a tiny random model in processes that can be killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

QUESTIONS = ["Tom has 4 apples.", "3 Tom", "Tom has 12 apples. so.", "so. 12", "apples", "User has 4."]


@pytest.fixture
def make_batch(make_policy):
    """Rollouts of two problems in groups of three (an odd size), with rewards that differ."""
    from train.batches import batch_of

    def make(mode: str = "soft", policy=None, group: int = 3):
        # with tied weights, a random model repeats its last token forever
        return batch_of(policy or make_policy("llama-untied"), mode, group)

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
    """Use the driver's rewards in this process too."""
    from train import driver

    driver.reward_texts(monkeypatch.setattr)


@pytest.fixture
def start(tmp_path):
    """Start the command line in a process of its own, after running the lines of `hook` there."""
    from train import driver

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
