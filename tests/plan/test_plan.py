"""A plan follows from the model's shapes and the run's flags; it needs only the model's configuration."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from transformers import LlamaConfig, MambaConfig, StaticCache

from softtokens import cli
from softtokens.config.plan import PlanConfig
from softtokens.config.scale import ScaleConfig
from softtokens.config.thought import ThoughtConfig
from softtokens.endings import PAPER
from softtokens.models import lora
from softtokens.models.files import load_without_weights, tiny_checkpoint
from softtokens.models.hf import load_policy
from softtokens.models.size import ModelSize
from softtokens.plan.devices import DEVICES, device_of
from softtokens.plan.footprint import FORCED_TOKENS, footprint
from softtokens.plan.run import plan
from softtokens.plan.speed import seconds_of
from softtokens.rollout.limits import forced_texts
from softtokens.types import UserError

H100, H200 = DEVICES["h100"], DEVICES["h200"]
SHAPE_3B = {
    "vocab_size": 128_256,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def folder_3b(tmp_path_factory):
    """A model folder with the configuration of Llama-3.2-3B and nothing else."""
    folder = tmp_path_factory.mktemp("3b")
    LlamaConfig(**SHAPE_3B).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def size_3b(folder_3b):
    return ModelSize.of(load_without_weights(folder_3b))


def parts_of(size, **changes) -> dict[str, float]:
    return {part.name: part.size for part in footprint(PlanConfig(**changes), size, H200, 0.0).parts}


def with_scale(**changes) -> dict:
    return {"scale": ScaleConfig(**changes)}


def test_shapes_without_weights_are_those_of_the_model():
    assert ModelSize.of(load_without_weights("tiny")) == ModelSize.of(load_policy("tiny").model)


@pytest.mark.parametrize("family", ["llama", "llama-untied", "qwen3", "gemma3", "gpt2"])
def test_a_saved_model_of_each_family_has_its_size(make_policy, tmp_path, family):
    policy = make_policy(family)
    policy.save(tmp_path)
    assert ModelSize.of(load_without_weights(tmp_path)) == ModelSize.of(policy.model)


def test_the_size_of_a_known_model(size_3b):
    assert size_3b.parameters == 3_212_749_824  # the published number
    assert size_3b.root == 128_256 * 3072 + 3072  # tied, and the last norm
    assert size_3b.parameters == size_3b.root + 28 * size_3b.block
    assert size_3b.cache_bytes(1, torch.bfloat16) == 2 * 28 * 8 * 128 * 2


def test_the_cache_is_what_a_model_allocates(make_policy):
    policy = make_policy("llama")
    cache = StaticCache(policy.model.config, max_cache_len=40)
    policy.model(torch.zeros(3, 1, dtype=torch.int64), past_key_values=cache, use_cache=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == 3 * ModelSize.of(policy.model).cache_bytes(40, torch.float32)


def test_parts_follow_the_table_of_the_docs(size_3b):
    p = size_3b.parameters
    alone = parts_of(size_3b)
    assert (alone["weights"], alone["gradients"], alone["optimizer"]) == (4 * p, 4 * p, 8 * p)
    assert not {"float32 masters", "copy for rollouts"} & alone.keys()
    half = parts_of(size_3b, **with_scale(dtype="bfloat16"))
    assert (half["weights"], half["float32 masters"], half["optimizer"]) == (2 * p, 4 * p, 8 * p)
    split = parts_of(size_3b, processes=8, **with_scale(dtype="bfloat16", parallel="fsdp"))
    assert (split["weights"], split["gradients"], split["optimizer"]) == (p / 2, p / 2, p)
    assert split["copy for rollouts"] == 2 * p
    two_machines = parts_of(size_3b, processes=16, per_machine=8, **with_scale(parallel="hsdp"))
    assert two_machines["optimizer"] == p


def test_a_plan_grows_with_what_it_is_for(size_3b):
    base = parts_of(size_3b, max_thought_steps=100)
    assert parts_of(size_3b, max_thought_steps=200)["stored thoughts"] == 2 * base["stored thoughts"]
    twice = parts_of(size_3b, max_thought_steps=100, problems_per_step=4, validate_every=0)
    once = parts_of(size_3b, max_thought_steps=100, validate_every=0)
    assert twice["KV cache"] == 2 * once["KV cache"]
    assert "stored thoughts" not in parts_of(size_3b, thought=ThoughtConfig(mode="hard"))
    assert "gradients of one term apart" not in parts_of(size_3b, term_norms_every=0)
    fewer = parts_of(size_3b, tokens_per_backward=1024)["activations"]
    assert fewer < base["activations"]
    recomputed = parts_of(size_3b, tokens_per_backward=1024, **with_scale(activation_checkpointing="always"))
    assert recomputed["activations"] < fewer / 5


def test_as_many_positions_as_training_takes(size_3b):
    """A GPU with twice the memory takes more of them in a backward pass, up to the configured number."""
    keeping = with_scale(activation_checkpointing="never")
    positions = [
        footprint(PlanConfig(**keeping), size_3b, dataclasses.replace(H200, memory=memory), 0.0).positions
        for memory in (100e9, 140e9, 1000e9)
    ]
    assert positions == sorted(set(positions)) and positions[-1] == 64 * (128 + FORCED_TOKENS + 32)
    least = footprint(PlanConfig(**keeping), size_3b, dataclasses.replace(H200, memory=20e9), 0.0).positions
    assert least == 128 + FORCED_TOKENS + 32  # a row is not cut


def test_adapters_are_what_is_trained(tmp_path):
    plans = [plan(PlanConfig(on="h100", scale=ScaleConfig(lora_rank=rank))) for rank in (0, 4)]
    whole, adapted = ({part.name: part.size for part in result.memory.parts} for result in plans)
    assert plans[0].size.trained == plans[0].size.parameters
    assert 0 < plans[1].size.trained < plans[1].size.parameters / 10
    assert adapted["optimizer"] == 8 * plans[1].size.trained
    assert whole["optimizer"] == 8 * plans[0].size.parameters


def test_the_forced_text_is_as_long_as_assumed():
    policy = load_policy("tiny")
    assert forced_texts(policy.tokenizer, policy.device, PAPER).longest <= FORCED_TOKENS


def test_decoding_reads_the_weights_once_per_token(size_3b):
    """At one row and a short context the bound is bytes over bandwidth: head and table for a thought."""
    config = PlanConfig(problems_per_step=1, group_size=2, prompt_tokens=1, max_thought_steps=20, max_answer_tokens=1)
    matrix = 4 * 128_256 * 3072
    steps = 20 + FORCED_TOKENS + 1
    soft = seconds_of(config, size_3b, H100, 1024).decode
    assert soft == pytest.approx(steps * (4 * size_3b.parameters + matrix) / H100.bandwidth, rel=0.01)
    hard = seconds_of(dataclasses.replace(config, thought=ThoughtConfig(mode="hard")), size_3b, H100, 1024).decode
    assert hard == pytest.approx(steps * 4 * size_3b.parameters / H100.bandwidth, rel=0.01)


def test_time_follows_the_device_and_the_work(size_3b):
    config = PlanConfig(term_norms_every=0, prompt_tokens=1, **with_scale(dtype="bfloat16"))
    base = seconds_of(config, size_3b, H100, 1024)
    wider = seconds_of(config, size_3b, dataclasses.replace(H100, bandwidth=2 * H100.bandwidth), 1024)
    assert wider.decode == pytest.approx(base.decode / 2, rel=0.1) and wider.update == base.update
    assert wider.optimizer == base.optimizer / 2
    faster = seconds_of(config, size_3b, dataclasses.replace(H100, flops={"bfloat16": 2 * 989e12}), 1024)
    assert faster.update == pytest.approx(base.update / 2)
    eight = seconds_of(dataclasses.replace(config, processes=8), size_3b, H100, 1024)
    assert eight.update == pytest.approx(base.update / 8, rel=0.1)
    assert eight.decode > 0.5 * base.decode  # still limited by reading the weights
    assert base.network == 0 < eight.network
    measuring = seconds_of(dataclasses.replace(config, signal_every=10), size_3b, H100, 1024)
    assert measuring.update == pytest.approx(1.1 * base.update)


def test_what_does_not_fit_says_what_would(folder_3b):
    result = plan(PlanConfig(model=folder_3b, on="a100-40"))
    assert not result.fits and result.changes
    peaks = [result.peak, *(change.peak for change in result.changes)]
    assert peaks == sorted(peaks, reverse=True)
    assert result.changes[-1].peak < 40e9 and "--lora-rank 16" in result.changes[-1].flags
    assert plan(PlanConfig(model=folder_3b, on="h200")).fits


def test_another_device_by_its_numbers():
    device = device_of(PlanConfig(on="B300", memory_gb=288, bandwidth_gb_s=8000, tflops=70))
    assert (device.memory, device.bandwidth, device.flops["float32"]) == (288e9, 8e12, 70e12)
    assert device_of(PlanConfig(on="h100", memory_gb=94)).memory == 94e9
    with pytest.raises(UserError, match=r"on is 'b300'; it must be here or one of h200.*memory_gb, bandwidth_gb_s"):
        device_of(PlanConfig(on="b300", memory_gb=288))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--processes", "0"], "processes is 0; it must be at least 1"),
        (["--processes", "65"], "processes is 65; it must be at most the 64 rollouts of a step"),
        (["--memory-gb", "-1"], "memory_gb is -1.0; it must be a positive number"),
        (["--tflops", "nan"], "tflops is nan; it must be a positive number"),
        (["--prompt-tokens", "0"], "prompt_tokens is 0; it must be at least 1"),
        (["--on", "abacus"], "on is 'abacus'; it must be here or one of"),
        (["--model", "/nowhere"], "model is '/nowhere', a folder that does not exist"),
        (["--lora-rank", "4", "--lora-targets", "nothing"], "lora_targets"),
        (["--processes", "3", "--parallel", "hsdp", "--per-machine", "2"], "the same number on every machine"),
        (["--max-thought-steps", "100000"], "positions, but the model's context is"),
    ],
)
def test_bad_input_is_named(capsys, flags, message):
    assert cli.main(["plan", *flags]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert message in err and "Traceback" not in err


def test_a_folder_without_a_configuration(capsys, tmp_path):
    assert cli.main(["plan", "--model", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err


def test_the_command_prints_parts_phases_and_a_verdict(capsys):
    assert cli.main(["plan", "--on", "h100"]) == 0
    text = capsys.readouterr().out
    for word in ("weights", "optimizer", "gradients", "KV cache", "stored thoughts", "vocabulary in work", "together"):
        assert word in text
    assert "Fits: at most" in text and "A step takes at least" in text


def test_json_adds_up(capsys):
    assert cli.main(["plan", "--on", "h100", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    for phase, size in result["phases"].items():
        assert size == pytest.approx(sum(part["bytes"] for part in result["parts"] if phase in part["phases"]))
    assert result["peak"] == max(result["phases"].values()) == result["phases"][result["peak_phase"]]
    assert result["fits"] is True and result["seconds"]["together"] > 0


def test_this_machine_is_measured():
    device = device_of(PlanConfig())
    assert device.memory > 1e9 and 1e8 < device.bandwidth < 1e13 and 1e8 < device.flops["float32"] < 1e16


def test_a_recipe_can_be_planned(capsys, folder_3b):
    flags = ["--config", "recipes/paper/llama-3.2-3b-math.toml", "--model", folder_3b, "--on", "h200"]
    assert cli.main(["plan", *flags]) == 0
    assert "Fits" in capsys.readouterr().out


def test_processes_on_one_cpu_share_it():
    given = {"memory_gb": 96, "bandwidth_gb_s": 20, "tflops": 0.1}
    one, eight = (device_of(PlanConfig(processes=n, **given)) for n in (1, 8))
    assert (eight.memory, eight.bandwidth) == (one.memory / 8, one.bandwidth / 8)
    assert eight.flops["float32"] == one.flops["float32"] / 8
    assert device_of(PlanConfig(on="h100", processes=8)) == H100


def test_changes_that_did_not_help_are_tried_again(folder_3b):
    """In bfloat16 the master weights cost what the weights save, until there are adapters."""
    result = plan(PlanConfig(model=folder_3b, on="h100", memory_gb=16))
    assert result.changes[-1].flags == "--lora-rank 16 --dtype bfloat16"
    assert result.changes[-1].peak < 16e9


def test_nothing_that_helps_is_said(capsys, folder_3b):
    assert cli.main(["plan", "--model", folder_3b, "--on", "h100", "--memory-gb", "1"]) == 0
    assert "what is left" in " ".join(capsys.readouterr().out.split())


def test_fewer_rollouts_at_a_time_and_no_more_validation_than_training_runs(size_3b):
    long = PlanConfig(max_thought_steps=4000, problems_per_step=8, **with_scale(dtype="bfloat16", lora_rank=16))
    result = footprint(long, size_3b, H100, 0.0)
    assert result.batch_sizes.slots % 8 == 0 and 8 <= result.batch_sizes.slots < 256
    assert result.phases["rollout"] < H100.memory
    cache = {n: parts_of(size_3b, validation_problems=n)["KV cache"] for n in (256, 1319)}
    assert cache[256] == cache[1319]


def test_a_folder_with_adapters_is_planned_with_them(tmp_path):
    policy = load_policy("tiny")
    lora.add(policy.model, 4, None, (), seed=0)
    policy.model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(tiny_checkpoint())
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    result, asked = plan(PlanConfig(model=str(tmp_path))), plan(PlanConfig(scale=ScaleConfig(lora_rank=4)))
    assert result.size == asked.size and result.size.trained < result.size.parameters / 10


def test_a_model_without_attention_has_a_size(tmp_path):
    MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, state_size=4).save_pretrained(tmp_path)
    assert plan(PlanConfig(model=str(tmp_path))).size.dim == 16


def test_adapters_do_less_in_an_update(size_3b):
    less = dataclasses.replace(size_3b, trained=size_3b.parameters // 100)
    whole, adapted = (seconds_of(PlanConfig(), size, H100, 1024).update for size in (size_3b, less))
    assert 0.6 < adapted / whole < 0.75
