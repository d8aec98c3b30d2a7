"""Compiled decode steps give what plain ones give, and a model that cannot be compiled goes on without."""

from __future__ import annotations

import logging
import types

import pytest
import torch

from softtokens.ops.compiling import compiled_or_plain, worth_compiling
from softtokens.ops.mixture import mixture_of
from softtokens.ops.random import Keys
from softtokens.ops.vocabulary import Vocabulary
from softtokens.rollout.decode import sample_rollout
from softtokens.rollout.decoder import Decoder
from softtokens.rollout.limits import Limits
from softtokens.thoughts import Gaussian, Hard, LogitGaussian

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    "choice, steps, ways, device, compiles",
    [
        ("auto", 100, 1, CPU, False),
        ("auto", 50_000, 1, CPU, True),
        ("auto", 50_000, 6, CPU, False),
        ("auto", 4_000 * 160, 1, CUDA, False),
        ("plain", 10**9, 1, CPU, False),
        ("compiled", 1, 1, CPU, True),
    ],
)
def test_long_runs_are_worth_compiling_for(choice, steps, ways, device, compiles):
    assert worth_compiling(choice, steps, ways, device) is compiles


def test_what_cannot_be_compiled_runs_as_it_is_and_says_so_once(caplog):
    calls = []

    def function(x):
        calls.append(torch.compiler.is_compiling())
        if torch.compiler.is_compiling():
            print("this breaks the graph")
        return x + 1

    run = compiled_or_plain(function, "steps")
    with caplog.at_level(logging.WARNING):
        assert [int(run(torch.tensor(i))) for i in range(3)] == [1, 2, 3]
    assert [record.message for record in caplog.records if "could not be compiled" in record.message]
    assert len(caplog.records) == 1


def test_failures_of_the_function_itself_are_its_own(monkeypatch):
    """It may have changed something by then, so it is not run a second time."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    calls = []

    def function(x):
        calls.append(x)
        if x < 0:
            raise torch.OutOfMemoryError("no room")
        return x

    runs = compiled_or_plain(function, "steps")
    with pytest.raises(torch.OutOfMemoryError):
        runs(-1)
    assert runs(2) == 2
    assert calls == [-1, 2]


def test_a_compiler_that_fails_late_is_done_without(monkeypatch, caplog):
    """Whatever it raises, and also when it ran before: other sizes may be compiled apart."""
    inner = types.FunctionType(
        compile("def convert(x):\n    raise AssertionError('a bug')", "?", "exec").co_consts[0],
        {"__name__": "torch._dynamo.convert_frame", "__builtins__": {"AssertionError": AssertionError}},
    )
    monkeypatch.setattr(torch, "compile", lambda function, **options: lambda x: inner(x) if x > 1 else function(x))
    runs = compiled_or_plain(lambda x: -x, "steps")
    with caplog.at_level(logging.WARNING):
        assert [runs(1), runs(2), runs(3)] == [-1, -2, -3]
    assert [record.message for record in caplog.records] == [
        "steps could not be compiled and run as they are, which is slower: a bug"
    ]


def test_the_compilers_limits_are_met_with_plain_steps(monkeypatch, caplog):
    """A function that has been compiled too often fails late, in the middle of a run."""
    calls = []

    def compiled(x):
        calls.append(x)
        if len(calls) > 1:
            raise torch._dynamo.exc.FailOnRecompileLimitHit("too many kinds")
        return x

    monkeypatch.setattr(torch, "compile", lambda function, **options: compiled)
    runs = compiled_or_plain(lambda x: -x, "steps")
    with caplog.at_level(logging.WARNING):
        assert [runs(1), runs(2), runs(3)] == [1, -2, -3]
    assert calls == [1, 2] and len(caplog.records) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)  # compilers are slow on a busy machine
@pytest.mark.filterwarnings("ignore")  # the compiler's own
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
    """All sizes that a batch takes as it shrinks, with one compilation. In float64, where rounding cannot flip."""
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
    if plain.inputs is not None:
        # what is fed is float32, and so are the norms of Gemma
        torch.testing.assert_close(plain.inputs, compiled.inputs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(900)  # compilers are slow on a busy machine
@pytest.mark.filterwarnings("ignore")
def test_compiled_rows_do_not_depend_on_their_batch(make_policy, prompts):
    """To the last bit where vectors are of 8 numbers, of which the rows are a multiple."""
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
@pytest.mark.filterwarnings("ignore")
def test_compiled_mixtures_choose_what_plain_ones_choose():
    """Of single weights the token's own embedding, without a product; and the mean otherwise."""
    table = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    vocabulary = Vocabulary(head=table, table=table, size=300, table_scale=2.0)
    distinct = torch.arange(300.0).repeat(8, 1)
    near = distinct.clone()
    near[3, 298:] = torch.tensor([299.0001, 299.0002])
    run = compiled_or_plain(mixture_of, "mixtures")
    for logits in (distinct, near):
        expected = mixture_of(logits, 1e-4, vocabulary)
        torch.testing.assert_close(run(logits, 1e-4, vocabulary), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(run(distinct, 1e-4, vocabulary), 2.0 * table[[299] * 8])
    assert not torch.allclose(run(near, 1e-4, vocabulary)[3], 2.0 * table[299])


@pytest.mark.slow
@pytest.mark.timeout(900)  # compilers are slow on a busy machine
def test_two_compiled_models_do_not_mix(make_policy, prompts):
    """Of the same widths but with other depths and constants: what is compiled for one is not run for the other."""
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
            torch.testing.assert_close(rolled(decoder).inputs, expected.inputs, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain[0].inputs, plain[1].inputs, atol=1e-2)
