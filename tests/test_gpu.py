"""What only a GPU can show; `make gpu` runs these on one card. They skip where there is none."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from softtokens import cli
from softtokens.config.thought import ThoughtConfig
from softtokens.ops.sketch import CountSketch
from softtokens.rollout.batches import sample_problems
from softtokens.rollout.decoder import Decoder
from softtokens.rollout.limits import Limits
from softtokens.rollout.memory import USABLE, free_bytes
from softtokens.rollout.replay import replay
from softtokens.thoughts import build_thought
from softtokens.train import gradient
from softtokens.train.objective import TermWeights, leave_one_out
from softtokens.train.weights import Weights, WithMasters
from softtokens.types import Problem

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CUDA = torch.device("cuda")
PROBLEMS = [Problem(i, f"User: Tom has {i + 3} apples. Assistant:", "3") for i in range(2)]
LIMITS = Limits(12, 5)
MODES = ("hard", "soft", "fuzzy")


def on(device: torch.device, make_policy, family: str = "llama", dtype: torch.dtype = torch.float32):
    policy = make_policy(family)
    return policy.around(policy.model.to(device, dtype))


def rollouts(policy, mode: str, group: int = 8, decoder: Decoder | None = None):
    thought = build_thought(ThoughtConfig(mode=mode), policy.embedding_rms)
    return thought, sample_problems(policy, thought, PROBLEMS, [range(group)] * 2, LIMITS, seed=3, decoder=decoder)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3", "gpt2"])
def test_recorded_steps_do_what_plain_ones_do(make_policy, family, mode):
    policy = on(CUDA, make_policy, family)
    decoder = Decoder(policy)
    _, plain = rollouts(policy, mode, decoder=decoder.prepare("plain", 1))
    decoder.prepare("auto", 1)
    for _ in range(2):  # recorded, and replayed
        _, recorded = rollouts(policy, mode, decoder=decoder)
        assert torch.equal(recorded.ids, plain.ids)
        torch.testing.assert_close(recorded.log_prob, plain.log_prob, rtol=1e-3, atol=1e-3)


def test_steps_are_recorded_anew_on_new_buffers(make_policy, caplog):
    """Longer prompts need larger buffers, and other limits evict them."""
    policy = on(CUDA, make_policy)
    decoder = Decoder(policy).prepare("auto", 1)
    thought = build_thought(ThoughtConfig(mode="soft"), policy.embedding_rms)
    for thoughts, prompt in itertools.product((12, 10, 8, 6), (PROBLEMS[0].prompt, PROBLEMS[0].prompt * 4)):
        problems = [Problem(0, prompt, "3")]
        for _ in range(3):
            sample_problems(policy, thought, problems, [range(8)], Limits(thoughts, 5), seed=3, decoder=decoder)
    decoder.drop_recordings()
    sample_problems(policy, thought, problems, [range(8)], LIMITS, seed=3, decoder=decoder)
    assert not [record for record in caplog.records if "recorded" in record.message]


@pytest.mark.parametrize("mode", MODES)
def test_replay_agrees_with_the_rollout(make_policy, mode):
    policy = on(CUDA, make_policy)
    thought, rollout = rollouts(policy, mode, decoder=Decoder(policy).prepare("auto", 1))
    again = replay(policy, thought, rollout)
    for ours, theirs in (
        (again.thought_log_prob[again.is_thought_step], rollout.log_prob[rollout.is_thought]),
        (again.answer_log_prob[again.is_answer_step], rollout.log_prob[rollout.is_answer]),
    ):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-3, atol=1e-3)


def gradient_on(device, make_policy, mode, rollout=None, *, masters=False, **options):
    policy = on(device, make_policy)
    thought, own = rollouts(policy, mode)
    rollout = own if rollout is None else rollout.to(device)
    weights = (WithMasters if masters else Weights)(policy)
    return gradient_of(policy, thought, rollout, weights, **options), rollout.to(torch.device("cpu"))


def gradient_of(policy, thought, rollout, weights=None, **options):
    weights = weights or Weights(policy)
    rewards = torch.arange(16.0, device=policy.device).view(2, 8) % 5
    batch = gradient.Batch(thought, rollout, leave_one_out(rewards).flatten(), rollout.rows)
    gradient.accumulate_gradient(weights, batch, TermWeights(), **options)
    return torch.cat([p.grad.flatten().cpu() for p in weights.parameters.values()])


@pytest.mark.parametrize("mode", MODES)
def test_the_gradient_is_that_of_the_cpu(make_policy, mode):
    theirs, rollout = gradient_on(torch.device("cpu"), make_policy, mode)
    ours, _ = gradient_on(CUDA, make_policy, mode, rollout)
    assert (ours - theirs).norm() <= 1e-3 * theirs.norm() + 1e-6


@pytest.mark.parametrize("options", [{"tokens_per_backward": 20}, {"apart": True}])
def test_parts_and_terms_apart_change_nothing(make_policy, options):
    whole, rollout = gradient_on(CUDA, make_policy, "soft")
    parts, _ = gradient_on(CUDA, make_policy, "soft", rollout, **options)
    assert (parts - whole).norm() <= 1e-3 * whole.norm()


@pytest.mark.parametrize("mode", MODES)
def test_bfloat16_is_near_float32(make_policy, mode):
    whole, rollout = gradient_on(CUDA, make_policy, mode)
    half, _ = gradient_on(CUDA, make_policy, mode, rollout, masters=True)
    assert 0 < (half - whole).norm() < 0.1 * whole.norm()


def test_sketches_are_those_of_the_cpu():
    entries = torch.randn(3_000_000)
    sketch = CountSketch(1024)
    torch.testing.assert_close(sketch.of([entries.to(CUDA)]).cpu(), sketch.of([entries]))


def test_free_bytes_counts_what_torch_keeps_for_itself():
    torch.cuda.empty_cache()
    before = free_bytes(CUDA)
    block = torch.empty(1 << 28, dtype=torch.uint8, device=CUDA)
    held = free_bytes(CUDA)
    del block  # torch keeps it
    assert before - held == pytest.approx(USABLE * 2**28, rel=0.1)
    assert free_bytes(CUDA) == pytest.approx(before, rel=0.05)


def test_an_update_that_runs_out_of_memory_goes_on(make_policy, monkeypatch):
    whole, rollout = gradient_on(CUDA, make_policy, "soft")
    inner, calls = gradient._part, []

    def part(*arguments):
        calls.append(1)
        if len(calls) == 1:
            torch.empty(1 << 50, dtype=torch.uint8, device=CUDA)
        return inner(*arguments)

    monkeypatch.setattr(gradient, "_part", part)
    halved, _ = gradient_on(CUDA, make_policy, "soft", rollout, tokens_per_backward=400)
    assert (halved - whole).norm() <= 1e-3 * whole.norm()


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_process_of_several_trains(make_policy, tmp_path, way, dtype):
    """As many processes as there are cards, two at most."""
    cards = min(2, torch.cuda.device_count())
    make_policy("llama").save(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(dataclasses.asdict(p)) + "\n" for p in PROBLEMS))
    flags = (
        f"train --model {tmp_path / 'model'} --task {tmp_path / 'rows.jsonl'} --grader exact --validate-every 0 "
        f"--steps 2 --group-size 4 --max-thought-steps 5 --max-answer-tokens 4 --output {tmp_path / 'run'} "
        f"--parallel {way} --dtype {dtype} --device cuda"
    ).split()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "softtokens.cli", *flags],
            env=os.environ
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(cards), "RANK": str(rank)}
            | {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(cards)},
        )
        for rank in range(cards)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0] * cards
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 2


def test_sharded_weights_of_one_process(make_policy, monkeypatch):
    """FSDP over a mesh of one card: a step, and the copy for rollouts after it."""
    import torch.distributed as dist

    from softtokens.train.weights import Sharded
    from softtokens.world.launch import Launch
    from softtokens.world.processes import World

    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29611")
    dist.init_process_group("cpu:gloo,cuda:nccl", rank=0, world_size=1)
    try:
        expected, rollout = gradient_on(CUDA, make_policy, "soft")
        sharded = Sharded(lambda: make_policy("llama"), World(Launch(), CUDA), hybrid=False, dtype=torch.float32)
        assert sharded.sampler.device.type == "cuda"
        thought, _ = rollouts(sharded.sampler, "soft")
        rewards = torch.arange(16.0, device=CUDA).view(2, 8) % 5
        batch = gradient.Batch(thought, rollout.to(CUDA), leave_one_out(rewards).flatten(), rollout.rows)
        gradient.accumulate_gradient(sharded, batch, TermWeights())
        ours = torch.cat([p.grad.full_tensor().flatten().cpu() for p in sharded.parameters.values()])
        assert (ours - expected).norm() <= 1e-3 * expected.norm()
        sharded.refresh()
    finally:
        dist.destroy_process_group()


def test_a_run_from_the_command_line(tmp_path):
    run = tmp_path / "run"
    flags = ["train", "--output", str(run), "--steps", "2", "--group-size", "8", "--device", "cuda"]
    assert cli.main([*flags, "--validate-every", "2", "--validation-problems", "8"]) == 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
