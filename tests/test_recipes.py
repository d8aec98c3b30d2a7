"""The paper's recipes resolve to the paper's settings, in every mode."""

import json
from pathlib import Path

import pytest

from softtokens import cli

FOLDER = Path(__file__).parent.parent / "recipes/paper"
LLAMA_3B = "meta-llama/Llama-3.2-3B-Instruct"
PAPER = {  # model, training set, learning rate, thought steps (arXiv 2509.19170)
    "llama-3.2-3b-gsm8k": (LLAMA_3B, "gsm8k", 6e-6, 128),
    "llama-3.2-3b-math": (LLAMA_3B, "math", 6e-6, 512),
    "llama-3.2-3b-deepscaler": (LLAMA_3B, "deepscaler", 6e-6, 512),
    "llama-3.1-8b-gsm8k": ("meta-llama/Llama-3.1-8B-Instruct", "gsm8k", 3e-6, 128),
    "qwen2.5-3b-math": ("Qwen/Qwen2.5-3B-Instruct", "math", 8e-6, 512),
}


def test_every_recipe_is_known():
    assert {path.stem for path in FOLDER.glob("*.toml")} == PAPER.keys()


@pytest.mark.parametrize("mode", ["hard", "soft", "fuzzy"])
@pytest.mark.parametrize("name", PAPER)
def test_a_dry_run_has_the_paper_s_settings(capsys, name, mode):
    assert cli.main(["train", "--config", str(FOLDER / f"{name}.toml"), "--mode", mode, "--dry-run"]) == 0
    config = json.loads(capsys.readouterr().out)
    model, task, rate, thoughts = PAPER[name]
    assert (config["model"], config["task"]["name"]) == (model, task)
    assert (config["learning_rate"], config["max_thought_steps"], config["max_answer_tokens"]) == (rate, thoughts, 32)
    assert (config["problems_per_step"], config["group_size"], config["steps"]) == (2, 32, 4000)
    assert (config["warmup_steps"], config["clip_norm"], config["weight_decay"]) == (20, 1.0, 0.0)
    assert (config["thought"]["mode"], config["thought"]["gamma"]) == (mode, 0.33)
    assert (config["scale"]["dtype"], config["scale"]["lora_rank"]) == ("float32", 0)
