"""Saving memory does not change what is learned: bfloat16 compared with float32, adapters, recomputing."""

import itertools
import warnings

import pytest
import torch
from safetensors.torch import load_file

from softtokens import cli
from softtokens.models import lora
from softtokens.models.blocks import blocks, recompute_activations
from softtokens.models.hf import load_policy
from softtokens.train.objective import TermWeights
from softtokens.train.weights import Weights, WithMasters
from softtokens.types import UserError
from train.test_gradient import assert_close, gradient_of, norm
from train.test_resume import assert_same_tensors, lines, stop_after, without_times

MODES = ("hard", "soft")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", [None, 20])
def test_recomputing_activations_changes_nothing(make_batch, mode, tokens):
    batch = make_batch(mode)
    expected, _ = gradient_of(batch, tokens_per_backward=tokens)
    recompute_activations(blocks(batch.policy.model))
    runs = []
    for module in batch.policy.model.modules():
        if type(module).__name__ in batch.policy.model._no_split_modules:
            module.register_forward_hook(lambda *_: runs.append(1))
    assert_close(gradient_of(batch, tokens_per_backward=tokens)[0], expected)
    assert len(runs) > 0


def test_recomputing_keeps_less(make_batch):
    """What autograd holds between the passes, in bytes."""
    batch = make_batch("soft")

    def held() -> int:
        sizes = {}

        def note(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        inputs = batch.policy.vocabulary.embed(batch.rollout.ids)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            batch.policy.hidden_states(inputs)
        parameters = {p.untyped_storage().data_ptr() for p in batch.parameters}
        return sum(size for place, size in sizes.items() if place not in parameters)

    before = held()
    recompute_activations(blocks(batch.policy.model))
    assert held() < 0.5 * before


def test_masters_follow_small_updates_that_bfloat16_would_lose(make_batch):
    batch = make_batch("soft")
    start = [p.detach().clone() for p in batch.parameters]
    weights = WithMasters(batch.policy)
    assert all(p.dtype == torch.bfloat16 for p in batch.parameters)
    for master, before in zip(weights.parameters.values(), start, strict=True):
        assert torch.equal(master, before)
    optimizer = torch.optim.AdamW(weights.parameters.values(), lr=1e-6, weight_decay=0.0)
    for _ in range(3):
        batch.accumulate(TermWeights(), weights)
        optimizer.step()
        weights.refresh()
    moved = [float((m - b).abs().max()) for m, b in zip(weights.parameters.values(), start, strict=True)]
    assert max(moved) == pytest.approx(3e-6, rel=0.2)
    for master, computing in zip(weights.parameters.values(), batch.parameters, strict=True):
        assert torch.equal(master.bfloat16(), computing)


def test_the_gradient_in_bfloat16_is_near_that_in_float32(make_batch):
    batch = make_batch("hard")
    expected, _ = gradient_of(batch)
    weights = WithMasters(batch.policy)
    batch.accumulate(TermWeights(), weights, tokens_per_backward=20)
    gradients = [p.grad for p in weights.parameters.values()]
    assert all(g.dtype == torch.float32 for g in gradients)
    difference = norm([a - b for a, b in zip(gradients, expected, strict=True)])
    assert 0 < difference < 0.1 * norm(expected), difference / norm(expected)


@pytest.mark.parametrize(
    "more",
    [("--dtype", "bfloat16"), ("--lora-rank", "2", "--dtype", "bfloat16"), ("--activation-checkpointing", "always")],
)
def test_a_run_resumes_bit_for_bit(flags, tmp_path, text_rewards, more):
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert cli.main(flags(whole, *more)) == 0
    stop_after(run, lambda output, *rest: flags(output, *more, *rest), step=5)
    assert cli.main(flags(run, *more, "--resume")) == 0
    assert without_times(run) == without_times(whole)
    (file,) = {"model.safetensors", "adapter_model.safetensors"} & {
        path.name for path in (whole / "checkpoints/last").iterdir()
    }
    assert_same_tensors(run / "checkpoints/last" / file, whole / "checkpoints/last" / file)
    assert all(x.dtype == torch.float32 for x in load_file(run / "checkpoints/last" / file).values())


def test_adapters_learn_and_everything_else_stays(flags, tmp_path, text_rewards, capsys):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run, merged = tmp_path / "run", tmp_path / "merged"
    assert cli.main(flags(run, "--lora-rank", "2", "--lora-alpha", "8")) == 0
    last = run / "checkpoints/last"
    assert lora.is_folder(last)
    assert cli.main(["export", str(last), str(merged)]) == 0
    ids = torch.arange(12)[None] % 5
    base = AutoModelForCausalLM.from_pretrained(lora.base_of(last))
    before = base(ids).logits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = PeftModel.from_pretrained(base, last)(ids).logits  # any user of peft loads it
    ours = AutoModelForCausalLM.from_pretrained(merged)(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (ours - before).abs().max() > 1e-3
    named = dict(load_policy(merged).model.named_parameters())
    for name, parameter in load_policy(lora.base_of(last)).model.named_parameters():
        inside = ".layers." in name and name.endswith("_proj.weight")
        assert torch.equal(parameter, named[name]) != inside, name
    assert cli.main(["generate", "Tom has 4 apples.", "--model", str(last), "--max-thought-steps", "3"]) == 0


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (("nowhere",), "lora_targets has nowhere, which no linear layer's name ends in; this model's are down_proj"),
        (("lm_head",), "head and embeddings cannot have adapters"),
    ],
)
def test_layers_that_cannot_have_adapters_are_named(make_policy, targets, message):
    with pytest.raises(UserError, match=message):
        lora.add(make_policy("llama-untied").model, 2, None, targets, seed=0)


def test_adapters_that_cannot_be_are_refused(make_policy):
    with pytest.raises(UserError, match="lora_rank is 5000; no layer of this model can use more than"):
        lora.add(make_policy("llama-untied").model, 5000, None, (), seed=0)
    with pytest.raises(UserError, match="GPT2LMHeadModel have no linear layers"):
        lora.add(make_policy("gpt2").model, 2, None, (), seed=0)


def test_only_chosen_layers_get_adapters(make_policy):
    policy = make_policy("llama-untied")
    lora.add(policy.model, 2, None, ("q_proj",), seed=0)
    trained = Weights(policy).parameters
    assert trained
    assert all(".q_proj.lora_" in name for name in trained)


def test_a_model_whose_weights_are_not_finite_is_refused(make_policy, tmp_path):
    policy = make_policy("llama-untied")
    with torch.no_grad():
        next(policy.model.parameters())[0, 0] = float("nan")
    policy.save(tmp_path / "model")
    with pytest.raises(UserError, match="has numbers that are not finite in"):
        load_policy(tmp_path / "model")


def test_metrics_have_what_a_run_needs_of_memory(flags, tmp_path, text_rewards):
    assert cli.main(flags(tmp_path / "run")) == 0
    peaks = [line["memory/peak"] for line in lines(tmp_path / "run/metrics.jsonl")]
    assert all(later > 0.99 * peak for peak, later in itertools.pairwise(peaks))  # Linux counts in batches of pages
    assert 1e8 < peaks[0] < 1e10
