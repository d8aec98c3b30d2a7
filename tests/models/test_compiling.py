"""Compiled decode steps give what plain ones give, and a model that cannot be compiled goes on without."""

from __future__ import annotations

import logging

import pytest
import torch

from softtokens.models.compiling import compiled_or_plain, worth_compiling
from softtokens.ops.random import Keys
from softtokens.rollout.decode import sample_rollout
from softtokens.rollout.limits import Limits
from softtokens.thoughts import Gaussian

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    "choice, steps, device, compiles",
    [
        ("auto", 100, CPU, False),
        ("auto", 4_000 * 160, CPU, True),
        ("auto", 4_000 * 160, CUDA, False),
        ("plain", 10**9, CPU, False),
        ("compiled", 1, CPU, True),
    ],
)
def test_long_runs_are_worth_compiling_for(choice, steps, device, compiles):
    assert worth_compiling(choice, steps, device) is compiles


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
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)

    def function(x):
        if x < 0:
            raise torch.OutOfMemoryError("no room")
        return x

    runs = compiled_or_plain(function, "steps")
    assert runs(1) == 1
    with pytest.raises(torch.OutOfMemoryError):
        runs(-1)
    assert runs(2) == 2


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
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize(
    ("family", "changes"),
    [("llama", {}), ("llama", {"num_key_value_heads": 4}), ("gemma3", {})],
    ids=["llama", "llama, heads of their own", "gemma3"],
)
def test_compiled_steps_give_the_same_rollouts(make_policy, prompts, family, changes, caplog):
    """All sizes that a batch takes as it shrinks, with one compilation. In float64, where rounding cannot flip."""
    policy = make_policy(family, dtype=torch.float64, **changes)
    policy.eos_ids = frozenset(range(0, 300, 12))
    of_row = [i % 3 for i in range(40)]
    keys = Keys(3, torch.tensor(of_row), torch.arange(40))
    thought, limits = Gaussian(0.5, 1.0), Limits(max_thought_steps=20, max_answer_tokens=4)
    plain = sample_rollout(policy, thought, prompts, of_row, keys, limits)
    policy.prepare_decoding("compiled", 1)
    compiled = sample_rollout(policy, thought, prompts, of_row, keys, limits)
    assert not [record.message for record in caplog.records if "could not be compiled" in record.message]
    assert len(set(plain.thought_lengths.tolist())) > 2
    assert torch.equal(plain.ids, compiled.ids)
    # what is fed is float32, and so are the norms of Gemma
    torch.testing.assert_close(plain.inputs, compiled.inputs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_two_compiled_models_do_not_mix(make_policy, prompts):
    """Of the same widths but with other depths and constants: what is compiled for one is not run for the other."""
    changes = [{}, {"num_hidden_layers": 1, "rms_norm_eps": 0.5}]
    policies = [make_policy(**change) for change in changes]
    keys = Keys(0, torch.zeros(8, dtype=torch.int64), torch.arange(8))

    def rolled(policy):
        return sample_rollout(policy, Gaussian(0.5, 0.3), [prompts[0]], [0] * 8, keys, Limits(6, 3))

    plain = [rolled(policy) for policy in policies]
    for policy in policies:
        policy.prepare_decoding("compiled", 1)
    for _ in range(2):
        for policy, expected in zip(policies, plain, strict=True):
            torch.testing.assert_close(rolled(policy).inputs, expected.inputs, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain[0].inputs, plain[1].inputs, atol=1e-2)
