"""How much runs at a time follows from free memory; if memory runs out anyway, halves continue."""

import dataclasses
import json
import logging

import pytest
import torch

from softtokens import cli
from softtokens.config.plan import PlanConfig
from softtokens.config.scale import ScaleConfig
from softtokens.config.thought import ThoughtConfig
from softtokens.config.train import TrainConfig
from softtokens.models.size import ModelSize
from softtokens.plan.devices import DEVICES
from softtokens.plan.footprint import footprint, share_of
from softtokens.rollout.memory import USABLE, position_bytes, row_bytes
from softtokens.train import collect, gradient, setup, validation
from softtokens.train.batch_sizes import FEW_POSITIONS, WANTED_POSITIONS, BatchSizes, Share, choose
from softtokens.train.gradient import Batch, _groups, _one_pass, _parts
from softtokens.train.objective import TermWeights
from softtokens.types import UserError
from train.test_gradient import assert_close, gradient_of
from train.test_resume import lines

LLAMA_3B = ModelSize(
    layers=28, dim=3072, inner=8192, kv_dim=1024, vocab=128_256, tied=True, parameters=3_212_749_824,
    trained=3_212_749_824, largest=394_002_432, root=394_005_504, block=100_669_440,
)  # fmt: skip
GSM8K = Share(rows=64, prompts=2, prompt_positions=256, emitted=172, validated=0)


def chosen(free: float, share: Share = GSM8K, kind: str = "cuda", size: ModelSize = LLAMA_3B, **changes) -> BatchSizes:
    return choose(TrainConfig(**changes), size, share, kind=kind, free=free)


def scaled(**changes) -> dict:
    return {"scale": ScaleConfig(**changes)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_a_3b_model_trains_at_full_width_on_one_80_gb_card(dtype, mode):
    config = PlanConfig(thought=ThoughtConfig(mode=mode), **scaled(dtype=dtype))
    planned = footprint(config, LLAMA_3B, DEVICES["h100"], 1e9)
    assert planned.batch_sizes.slots == 64
    assert planned.batch_sizes.positions >= 4096
    assert planned.peak < 0.95 * DEVICES["h100"].memory


def test_more_memory_never_means_less_at_a_time():
    fits = [chosen(free) for free in (20e9, 45e9, 50e9, 60e9, 80e9, 120e9, 500e9)]
    for name in ("slots",):
        assert [getattr(fit, name) for fit in fits] == sorted(getattr(fit, name) for fit in fits)
    positions = [chosen(free, **scaled(activation_checkpointing="never")).positions for free in (60e9, 80e9, 500e9)]
    assert positions == sorted(positions) and positions[-1] == WANTED_POSITIONS["cuda"]
    assert fits[-1] == BatchSizes(64, 0, WANTED_POSITIONS["cuda"], recomputes=False)


def test_the_update_is_served_before_rollouts():
    """Where both cannot have all, rollouts wait and a pass keeps its least size."""
    tight = chosen(54e9)
    assert 8 <= tight.slots < 64
    assert tight.positions >= FEW_POSITIONS and tight.recomputes


@pytest.mark.parametrize("free", [50e9, 60e9, 70e9, 100e9])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_chosen_fits(free, dtype):
    """Counted again by hand: state, vocabulary, rollouts with their prompts, and a pass with its prompts."""
    fit, width = chosen(free, **scaled(dtype=dtype)), getattr(torch, dtype)
    matrix = 4.0 * 128_256 * 3072
    one = position_bytes(LLAMA_3B, width, checkpointed=fit.recomputes)
    used = 12 * LLAMA_3B.parameters + 4 * matrix + fit.slots * row_bytes(LLAMA_3B, width, 428, 128)
    used += 64 * 128 * 3072 * 4 + 2 * LLAMA_3B.cache_bytes(256, width) + (fit.positions + 512) * one
    assert used <= free


def test_activations_are_recomputed_only_where_it_helps():
    assert not chosen(500e9).recomputes
    assert chosen(500e9, **scaled(activation_checkpointing="always")).recomputes
    assert not chosen(50e9, **scaled(activation_checkpointing="never")).recomputes
    few = dataclasses.replace(GSM8K, rows=8)  # 1,376 positions in all
    assert not chosen(70e9, few).recomputes
    assert not chosen(55e9, size=dataclasses.replace(LLAMA_3B, block=0)).recomputes  # its blocks are unknown
    assert not chosen(1e6, kind="cpu").recomputes


def test_many_prompts_take_turns():
    many = dataclasses.replace(GSM8K, rows=1024, prompts=128)
    fit = chosen(100e9, many, problems_per_step=128, group_size=8)
    assert fit.positions < 128 * 256  # their prompts do not fit together


def test_a_plan_and_a_run_choose_alike(flags, tmp_path, monkeypatch):
    """The same function with the same inputs."""
    chosen = []

    def spy(config, size, share, **memory):
        chosen.append((config, size, share, memory))
        return choose(config, size, share, **memory)

    monkeypatch.setattr(setup, "choose", spy)
    assert cli.main(flags(tmp_path / "run", "--steps", "1")) == 0
    ((config, size, share, memory),) = chosen
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    planned = PlanConfig(prompt_tokens=share.prompt_positions, **{name: getattr(config, name) for name in names})
    theirs = share_of(planned)
    assert dataclasses.replace(theirs, emitted=share.emitted) == share  # a plan does not know the tokenizer
    assert theirs.emitted >= share.emitted - 4
    device = dataclasses.replace(DEVICES["h100"], memory=memory["free"] / 0.25, kind="cpu")
    fit = footprint(planned, size, device, 0.0).batch_sizes
    assert fit == choose(config, size, theirs, **memory)
    gpu = dataclasses.replace(DEVICES["h100"])
    rest = USABLE * (gpu.memory - 1e9 - 4 * size.parameters)
    assert footprint(planned, size, gpu, 1e9).batch_sizes == choose(config, size, theirs, kind="cuda", free=rest)


def test_prompts_run_in_groups_within_the_budget(make_policy, make_batch):
    batch = make_batch("soft")
    prompts, of_row = batch.rollout.prompts()
    assert len(prompts) == 2
    longest = max(map(len, prompts))
    whole = Batch(batch.thought, batch.rollout, batch.advantages, batch.rollout.rows)
    (both,) = _groups(whole, 2 * longest)
    assert both.tolist() == list(range(6))
    apart = _groups(whole, 2 * longest - 1)
    assert sorted(torch.cat(apart).tolist()) == list(range(6))
    assert all(len(set(of_row[group].tolist())) == 1 for group in apart)


def test_memory_does_not_grow_with_the_number_of_prompts(make_batch, monkeypatch):
    """At a fixed number of positions per pass: what autograd holds at a time, in bytes."""
    from softtokens.models.hf import HFPolicy

    batch = make_batch("soft")
    held = []
    inner = HFPolicy.prompt_states
    monkeypatch.setattr(
        HFPolicy, "prompt_states", lambda self, prompts: held.append(len(prompts)) or inner(self, prompts)
    )
    batch.accumulate(TermWeights(), tokens_per_backward=10_000)
    batch.accumulate(TermWeights(), tokens_per_backward=1)
    assert held == [2, 1, 1]


def test_parts_of_rows_that_run_their_own_prompts_count_them(make_batch):
    rollout = make_batch("soft").rollout
    sharing = _parts(rollout, 60, counts_prompts=False)
    alone = _parts(rollout, 60, counts_prompts=True)
    assert len(alone) > len(sharing)
    assert torch.cat(alone).tolist() == list(range(rollout.rows))


class OutOfMemory:
    """Makes a function fail like a full device while its argument is above a limit."""

    def __init__(self, inner, size, limit: int):
        self.inner, self.size, self.limit = inner, size, limit
        self.tried: list[int] = []

    def __call__(self, *arguments, **options):
        size = self.size(arguments, options)
        self.tried.append(size)
        if size > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.inner(*arguments, **options)


@pytest.mark.parametrize("apart", [False, True])
def test_an_update_that_runs_out_of_memory_halves_its_passes(make_batch, monkeypatch, apart):
    batch = make_batch("soft")
    expected, _ = gradient_of(batch)
    failing = OutOfMemory(_one_pass, lambda arguments, options: arguments[3], limit=40)
    monkeypatch.setattr(gradient, "_one_pass", failing)
    halved = batch.accumulate(TermWeights(), tokens_per_backward=200, apart=apart)
    assert failing.tried == [200, 100, 50, 25] + [25] * apart
    assert halved.tokens_per_backward == 25
    assert_close([p.grad for p in batch.parameters], expected)


def test_an_update_that_fails_half_way_leaves_nothing_behind(make_batch, monkeypatch):
    batch = make_batch("soft")
    expected, _ = gradient_of(batch)
    inner, calls = gradient._part, []

    def part(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return inner(*arguments)

    monkeypatch.setattr(gradient, "_part", part)
    batch.accumulate(TermWeights(), tokens_per_backward=60)
    assert_close([p.grad for p in batch.parameters], expected)


def test_a_single_row_that_does_not_fit_is_an_error_with_ways_out(make_batch, monkeypatch):
    failing = OutOfMemory(_one_pass, lambda arguments, options: arguments[3], limit=0)
    monkeypatch.setattr(gradient, "_one_pass", failing)
    with pytest.raises(UserError, match=r"a single rollout in a pass\. Use --activation-checkpointing always"):
        make_batch("soft").accumulate(TermWeights(), tokens_per_backward=100)


def test_a_run_goes_on_with_fewer_rollouts_at_a_time_and_says_so_once(
    flags, tmp_path, text_rewards, monkeypatch, caplog
):
    whole, run = tmp_path / "whole", tmp_path / "run"
    more = ("--group-size", "12", "--steps", "3")
    assert cli.main(flags(whole, *more)) == 0
    failing = OutOfMemory(collect.sample_problems, lambda arguments, options: options["slots"], limit=15)
    monkeypatch.setattr(collect, "sample_problems", failing)
    with caplog.at_level(logging.WARNING):
        assert cli.main(flags(run, *more)) == 0
    assert failing.tried == [24, 8, 8, 8]
    assert caplog.text.count("out of memory with 24 rollouts at a time; continuing with 8") == 1
    assert (run / "samples.jsonl").read_text() == (whole / "samples.jsonl").read_text()


def test_a_single_rollout_that_does_not_fit_is_an_error(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(collect, "sample_problems", OutOfMemory(None, lambda arguments, options: 1, limit=0))
    assert cli.main(flags(tmp_path / "run")) == 2
    assert "memory ran out with a single rollout; lower max_thought_steps" in capsys.readouterr().err


def test_other_failures_are_not_taken_for_full_memory(make_batch, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(gradient, "_one_pass", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        make_batch("soft").accumulate(TermWeights())


def test_validation_halves_too(flags, tmp_path, text_rewards, monkeypatch, caplog):
    failing = OutOfMemory(validation.count_right, lambda arguments, options: options["slots"], limit=2)
    monkeypatch.setattr(validation, "count_right", failing)
    with caplog.at_level(logging.WARNING):
        assert cli.main(flags(tmp_path / "run")) == 0
    assert failing.tried[:2] == [4, 2] and set(failing.tried[1:]) == {2}
    assert "validation/accuracy" in json.dumps(lines(tmp_path / "run/metrics.jsonl")[2])
