"""Compiled decode steps give the same rollouts as plain ones."""

from __future__ import annotations

import pytest
import torch

from softtokens.models.hf import HFPolicy
from softtokens.ops.random import Keys
from softtokens.rollout.decode import sample_rollout
from softtokens.rollout.decoder import Decoder
from softtokens.rollout.limits import Limits
from softtokens.thoughts import Gaussian, Hard, LogitGaussian


def test_a_model_without_a_cache_is_not_compiled(policy, monkeypatch):
    monkeypatch.setattr(HFPolicy, "has_cache", False)
    monkeypatch.setattr("softtokens.rollout.decoder.compiled_or_plain", lambda *arguments: pytest.fail("compiled"))
    decoder, keys = Decoder(policy).prepare("compiled", 1), Keys(0, torch.zeros(8, dtype=torch.int64), torch.arange(8))
    assert sample_rollout(policy, Hard(), [[5, 6]], [0] * 8, keys, Limits(3, 2), decoder=decoder).rows == 8


def test_preparing_again_keeps_what_was_compiled(policy, monkeypatch):
    made = []
    monkeypatch.setattr(
        "softtokens.rollout.decoder.compiled_or_plain", lambda function, what: made.append(what) or function
    )
    decoder, keys = Decoder(policy), Keys(0, torch.zeros(8, dtype=torch.int64), torch.arange(8))
    for choice, count in (("compiled", 3), ("compiled", 3), ("plain", 3), ("compiled", 6)):
        decoder.prepare(choice, 1)
        sample_rollout(policy, Hard(), [[5, 6]], [0] * 8, keys, Limits(3, 2), decoder=decoder)
        assert len(made) == count  # the model, the emission of tokens, that of the forced text


@pytest.mark.slow
@pytest.mark.timeout(900)  # compilers are slow on a busy machine
@pytest.mark.filterwarnings("ignore")  # raised by the compiler
@pytest.mark.parametrize(
    ("family", "changes", "thought"),
    [
        ("llama", {}, Gaussian(0.5, 1.0)),
        ("llama", {"num_key_value_heads": 4}, Hard(8.0)),
        ("gemma3", {}, LogitGaussian(0.5, 3.0, 5)),
    ],
    ids=["llama, soft", "llama with heads of their own, hard", "gemma3, top-k"],
)
def test_compiled_steps_give_the_same_rollouts(make_policy, prompts, family, changes, thought, caplog):
    """All sizes of a shrinking batch, with one compilation. In float64, where rounding cannot change a token."""
    policy = make_policy(family, dtype=torch.float64, **changes)
    policy.eos_ids = frozenset(range(0, 300, 12))
    of_row = [i % 3 for i in range(40)]
    keys = Keys(2**40 + 3, torch.tensor(of_row), torch.arange(40))
    limits = Limits(max_thought_steps=20, max_answer_tokens=5)
    plain = sample_rollout(policy, thought, prompts, of_row, keys, limits)
    decoder = Decoder(policy).prepare("compiled", 1)
    compiled = sample_rollout(policy, thought, prompts, of_row, keys, limits, decoder=decoder)
    assert not [record.message for record in caplog.records if "could not be compiled" in record.message]
    assert len(set(plain.thought_lengths.tolist())) > 2
    assert torch.equal(plain.ids, compiled.ids)
    torch.testing.assert_close(plain.log_prob, compiled.log_prob, rtol=1e-4, atol=1e-4)
    if plain.stored:
        # fed vectors and Gemma's norms are float32
        torch.testing.assert_close(plain.stored["inputs"], compiled.stored["inputs"], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)  # compilers are slow on a busy machine
@pytest.mark.filterwarnings("ignore")
def test_compiled_rows_do_not_depend_on_their_batch(make_policy, prompts):
    """Bit for bit on CPUs with vectors of 8 numbers, because the number of rows is a multiple of 8."""
    policy = make_policy()
    policy.eos_ids = frozenset(range(0, 300, 12))
    decoder = Decoder(policy).prepare("compiled", 1)
    of_row = [i % 3 for i in range(40)]
    keys, limits = Keys(3, torch.tensor(of_row), torch.arange(40)), Limits(max_thought_steps=20, max_answer_tokens=5)
    whole = sample_rollout(policy, Hard(8.0), prompts, of_row, keys, limits, decoder=decoder)
    parts = sample_rollout(policy, Hard(8.0), prompts, of_row, keys, limits, slots=16, decoder=decoder)
    assert torch.equal(whole.ids, parts.ids)
    exact = torch.backends.cpu.get_cpu_capability() == "AVX2"
    torch.testing.assert_close(whole.log_prob, parts.log_prob, **({"rtol": 0, "atol": 0} if exact else {}))


@pytest.mark.slow
@pytest.mark.timeout(900)  # compilers are slow on a busy machine
def test_two_compiled_models_do_not_mix(make_policy, prompts):
    """Models of the same widths with other depths and constants: code compiled for one never runs for the other."""
    changes = [{}, {"num_hidden_layers": 1, "rms_norm_eps": 0.5}]
    policies = [make_policy(**change) for change in changes]
    keys = Keys(0, torch.zeros(8, dtype=torch.int64), torch.arange(8))

    def rolled(decoder):
        thought, limits = Gaussian(0.5, 0.3), Limits(6, 3)
        return sample_rollout(decoder.policy, thought, [prompts[0]], [0] * 8, keys, limits, decoder=decoder)

    plain = [rolled(Decoder(policy)) for policy in policies]
    decoders = [Decoder(policy).prepare("compiled", 1) for policy in policies]
    for _ in range(2):
        for decoder, expected in zip(decoders, plain, strict=True):
            torch.testing.assert_close(
                rolled(decoder).stored["inputs"], expected.stored["inputs"], atol=1e-4, rtol=1e-4
            )
    assert not torch.allclose(plain[0].stored["inputs"], plain[1].stored["inputs"], atol=1e-2)
