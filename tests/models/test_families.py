"""The adapter compared with transformers itself, for every architecture."""

from __future__ import annotations

import contextlib
import copy
import json
import logging

import pytest
import torch

from conftest import EXTRA_ROWS, FAMILIES, build_model
from plain_loop import plain_rollout
from softtokens.endings import PAPER
from softtokens.models import probe
from softtokens.models.hf import HFPolicy, load_policy
from softtokens.models.kv import SlotKV
from softtokens.ops.random import Keys
from softtokens.rollout.decode import sample_rollout
from softtokens.rollout.limits import Limits, forced_texts
from softtokens.rollout.record import Kind
from softtokens.rollout.replay import replay
from softtokens.thoughts import Gaussian, Hard
from softtokens.types import UserError

every_family = pytest.mark.parametrize("family", FAMILIES)


@every_family
@torch.no_grad()
def test_logits_from_embeddings_are_those_from_tokens(family, make_policy, prompts):
    policy = make_policy(family)
    ids = torch.tensor([prompts[0]])
    expected = policy.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    hidden = policy.hidden_states(policy.vocabulary.embed(ids))[0]
    size = len(policy.tokenizer)
    logits = policy.vocabulary.logits(hidden)
    torch.testing.assert_close(logits[:, :size], expected[:, :size], rtol=1e-4, atol=1e-4)
    assert logits.shape[1] == size + EXTRA_ROWS
    assert (logits[:, size:] == float("-inf")).all()


@every_family
@torch.no_grad()
def test_decoding_with_the_cache_is_the_teacher_forced_pass(family, make_policy, prompts):
    """Prompts of mixed length in one batch, each at its own position, compared with each alone and whole."""
    policy = make_policy(family)
    steps = 12  # beyond the sliding window of 8
    fed = torch.randn(len(prompts), steps, 32, generator=torch.Generator().manual_seed(0))
    states = policy.prompt_states(prompts)
    kv = SlotKV(len(prompts), 64)
    kv.fill(torch.arange(len(prompts)), states, torch.arange(len(prompts)))
    position, recorded = states.lengths, [states.hidden]
    for step in range(steps):
        view = int(position.max()) + 1
        recorded.append(policy.step(fed[:, step], position, kv, view))
        position = position + 1
    recorded = torch.stack(recorded, dim=1)
    for row, prompt in enumerate(prompts):
        inputs = torch.cat([policy.vocabulary.embed(torch.tensor(prompt)), fed[row]])[None]
        expected = policy.hidden_states(inputs)[0, len(prompt) - 1 :]
        torch.testing.assert_close(recorded[row], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_gemma_table_is_scaled(make_policy, prompts):
    policy = make_policy("gemma3")
    ids = torch.tensor(prompts[0])
    torch.testing.assert_close(policy.vocabulary.embed(ids), policy.model.get_input_embeddings()(ids))
    weight = policy.model.get_input_embeddings().weight
    scale = policy.vocabulary.table_scale
    assert policy.embedding_rms == pytest.approx(scale * float(weight.square().mean().sqrt()), rel=1e-5)


@torch.no_grad()
def test_grouped_heads_attend_as_in_transformers(tokenizer, prompts):
    ours = HFPolicy(build_model("llama", 310), tokenizer)
    theirs = build_model("llama", 310)
    theirs.set_attn_implementation("eager")
    ids = torch.tensor([prompts[2]])
    expected = theirs.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    torch.testing.assert_close(ours.hidden_states(ours.vocabulary.embed(ids)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_a_saved_policy_is_an_ordinary_checkpoint(family, make_policy, prompts, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy = make_policy(family)
    policy.embedding_rms = 0.125  # as frozen at the start of some training
    policy.save(tmp_path)
    loaded = load_policy(tmp_path)
    assert loaded.embedding_rms == 0.125
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).encode("Tom has 4") == policy.tokenizer.encode("Tom has 4")
    for name, parameter in policy.model.named_parameters():
        assert torch.equal(plain.get_parameter(name), parameter)
        assert torch.equal(loaded.model.get_parameter(name), parameter)
    assert list(tmp_path.glob("*.bin")) == []
    assert "softtokens" not in (tmp_path / "config.json").read_text()


def test_bfloat16_weights_give_float32_logits(tokenizer, prompts):
    policy = HFPolicy(build_model("llama", 310, dtype=torch.bfloat16), tokenizer)
    with torch.no_grad():
        hidden = policy.hidden_states(policy.vocabulary.embed(torch.tensor([prompts[0]])))[0]
        logits = policy.vocabulary.logits(hidden)
    assert hidden.dtype == torch.bfloat16 and logits.dtype == torch.float32
    head = policy.model.get_output_embeddings().weight
    exact = hidden.double() @ head.double().T
    torch.testing.assert_close(logits[:, : len(tokenizer)].double(), exact[:, : len(tokenizer)], rtol=1e-5, atol=1e-5)
    rounded = logits.bfloat16().float()
    assert (rounded[:, :100] - exact[:, :100]).abs().max() > 100 * (logits[:, :100] - exact[:, :100]).abs().max()


def test_mask_unused_is_an_option(tokenizer, prompts):
    policy = HFPolicy(build_model("llama", 310), tokenizer, mask_unused=False)
    hidden = policy.prompt_states(prompts).hidden
    assert policy.vocabulary.logits(hidden).isfinite().all()


def refused(match, name, **keywords):
    with pytest.raises(UserError, match=match):
        load_policy(name, **keywords)


def test_what_cannot_be_loaded_is_refused_with_the_reason(tmp_path, make_policy):
    refused("does not exist", tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    refused("is a file", tmp_path / "file")
    (tmp_path / "empty").mkdir()
    refused("no config.json", tmp_path / "empty")
    folder = tmp_path / "model"
    make_policy().save(folder)
    (folder / "model.safetensors").rename(folder / "weights.bin")
    refused("no weights", folder)
    (folder / "model.safetensors").write_bytes(b"nonsense")
    refused("could not be loaded", folder)
    (folder / "config.json").write_text("{")
    refused("could not be loaded", folder)


def test_code_that_comes_with_a_model_is_not_run(tmp_path, make_policy):
    folder = tmp_path / "model"
    make_policy().save(folder)
    witness = tmp_path / "ran"
    (folder / "custom.py").write_text(f"open({str(witness)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "custom", "auto_map": {"AutoConfig": "custom.C", "AutoModelForCausalLM": "custom.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    refused("could not be loaded", folder)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda m: m.set_output_embeddings(torch.nn.Linear(16, 310)), "same shape"),
        (lambda m: m.set_input_embeddings(PositionDependent(310, 32)), "by more than a constant factor"),
        (lambda m: m.lm_head.register_forward_hook(lambda module, args, out: out**3), "other logits"),
        (lambda m: m.lm_head.weight.data.mul_(1e38), "logits that are not finite"),
    ],
)
def test_a_model_that_embeddings_cannot_drive_is_refused(tokenizer, break_it, reason):
    model = build_model("llama-untied", 310)
    break_it(model)
    with pytest.raises(UserError, match=reason):
        HFPolicy(model, tokenizer)


def test_a_tokenizer_of_a_larger_model_is_refused(tokenizer):
    with pytest.raises(UserError, match=r"table has 200 rows and its tokenizer \d+ tokens"):
        HFPolicy(build_model("llama-untied", 200), tokenizer)


class PositionDependent(torch.nn.Embedding):
    def forward(self, ids):
        return super().forward(ids) + torch.arange(ids.shape[-1])[:, None]


def test_a_head_with_bias_and_a_cap_are_understood(tokenizer):
    model = build_model("gemma3", 310, final_logit_softcapping=5.0)
    policy = HFPolicy(model, tokenizer)
    assert policy.vocabulary.softcap == 5.0
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        logits = policy.vocabulary.logits(policy.hidden_states(policy.vocabulary.embed(ids))[0])
        expected = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    torch.testing.assert_close(logits[:, :300], expected[:, :300], rtol=1e-4, atol=1e-4)


OTHERS = {
    "GPTNeo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 8},
    "GPTJ": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 8},
    "Bloom": {"n_layer": 2, "n_head": 4},
    "Mamba": {"num_hidden_layers": 2, "state_size": 4},
}


@pytest.mark.parametrize("name", OTHERS)
def test_an_architecture_that_decodes_otherwise_runs_whole_sequences(tokenizer, prompts, name, caplog):
    """These models have their own attention code or no keys and values. Up to the last position of their context."""
    import transformers

    forced, thoughts, answer = forced_texts(tokenizer, torch.device("cpu"), PAPER).longest, 5, 3
    config = getattr(transformers, f"{name}Config")(vocab_size=310, hidden_size=32, **OTHERS[name])
    config.max_position_embeddings = max(map(len, prompts)) + thoughts + forced + answer
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(0, 0.3)
    with caplog.at_level(logging.WARNING, logger="softtokens"):
        policy = HFPolicy(model, tokenizer)
    (warning,) = (record for record in caplog.records if record.name.startswith("softtokens"))
    assert warning.message.startswith(name) and "runs the whole sequence again" in warning.message

    thought, limits, of_row = Gaussian(0.5, 0.1), Limits(thoughts, answer), [0, 0, 1, 2]
    keys = Keys(1, torch.tensor(of_row), torch.arange(4))
    rollout = sample_rollout(policy, thought, prompts, of_row, keys, limits)
    for row, i in enumerate(of_row):
        plain = plain_rollout(policy, thought, prompts[i], keys[torch.tensor([row])], limits)
        assert rollout.ids[row, : len(plain.ids)].tolist() == plain.ids
    of_row = [0, 1, 2] * 8  # more rows than slots
    keys = Keys(1, torch.tensor(of_row), torch.arange(24))
    whole = sample_rollout(policy, thought, prompts, of_row, keys, limits)
    parts = sample_rollout(policy, thought, prompts, of_row, keys, limits, slots=8)
    torch.testing.assert_close(whole.log_prob, parts.log_prob)

    distinct, prompt_of_row = rollout.prompts()
    alone = replay(policy, thought, rollout)
    shared = replay(policy, thought, rollout, prompts=policy.prompt_states(distinct), prompt_of_row=prompt_of_row)
    torch.testing.assert_close(shared.thought_log_prob, alone.thought_log_prob, rtol=1e-4, atol=1e-3)
    gradients = [torch.autograd.grad(r.answer_log_prob.sum(), policy.vocabulary.table)[0] for r in (alone, shared)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4 * float(gradients[0].abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_looks_ahead_is_refused(tokenizer, dtype):
    model = build_model("llama", 310, dtype=dtype)
    norm = model.model.norm
    norm.register_forward_hook(lambda module, args, out: out + out.mean(1, keepdim=True))
    with pytest.raises(UserError, match=r"^LlamaForCausalLM gives other hidden states when it decodes step by step"):
        HFPolicy(model, tokenizer)


@pytest.mark.parametrize(("dtype", "refused"), [(torch.float32, True), (torch.bfloat16, False)])
def test_a_single_position_may_be_far_off_by_rounding_in_half_precision(tokenizer, monkeypatch, dtype, refused):
    stepwise = probe._stepwise

    def off_at_one(*arguments):
        states = stepwise(*arguments)
        states[0, 1] *= 1.4
        return states

    monkeypatch.setattr(probe, "_stepwise", off_at_one)
    with pytest.raises(UserError, match="other hidden states") if refused else contextlib.nullcontext():
        probe.require_same_decoding(HFPolicy(build_model("llama", 310, dtype=dtype), tokenizer), "model")


def test_capped_attention_is_understood(tokenizer, prompts):
    """Gemma 2, compared with transformers' own attention."""
    import transformers

    config = transformers.Gemma2Config(
        vocab_size=310, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=64, attn_logit_softcapping=0.5, sliding_window=8, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_(0, 1.0)
        ids = torch.tensor(prompts[2:])
        expected = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, :, :300]
        policy = HFPolicy(model, tokenizer)
        logits = policy.vocabulary.logits(policy.hidden_states(policy.vocabulary.embed(ids))[0])[:, :300]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_the_template_of_a_training_travels_with_the_model(make_policy, tmp_path):
    policy = make_policy()
    policy.template = "Q: {question} A:"
    policy.save(tmp_path)
    assert load_policy(tmp_path).template == "Q: {question} A:"
    assert load_policy("tiny").template == "User: {question}\nAssistant:"


def test_a_model_that_never_ends_a_text_is_said(make_policy, caplog):
    policy = make_policy()
    tokenizer, model = copy.deepcopy(policy.tokenizer), policy.model
    tokenizer.eos_token = tokenizer.pad_token = None
    before = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = None
    try:
        silent = HFPolicy(model, tokenizer)
    finally:
        model.generation_config.eos_token_id = before
    assert silent.eos_ids == frozenset()
    assert "neither the tokenizer nor the model names an end-of-sequence token" in caplog.text
    keys = Keys(0, torch.zeros(2, dtype=torch.int64), torch.arange(2))
    rollout = sample_rollout(silent, Hard(), [tokenizer.encode("3")], [0, 0], keys, Limits(3, 4))
    assert (rollout.kind == Kind.ANSWER).sum(-1).tolist() == [4, 4]
