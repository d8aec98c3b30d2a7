"""Compiled decode steps equal plain ones, and a model that cannot be compiled continues uncompiled."""

from __future__ import annotations

import logging
import types

import pytest
import torch

from softtokens.ops.compiling import compiled_or_plain, worth_compiling
from softtokens.ops.mixture import mixture_of
from softtokens.ops.vocabulary import Vocabulary

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
    """Whatever error it raises, also after it has run before: other sizes may be compiled separately."""
    inner = types.FunctionType(
        compile("def convert(x):\n    raise AssertionError('a bug')", "?", "exec").co_consts[0],
        {"__name__": "torch._dynamo.convert_frame", "__builtins__": {"AssertionError": AssertionError}},
    )
    monkeypatch.setattr(torch, "compile", lambda function, **options: lambda x: inner(x) if x > 1 else function(x))
    runs = compiled_or_plain(lambda x: -x, "steps")
    with caplog.at_level(logging.WARNING):
        assert [runs(1), runs(2), runs(3)] == [-1, -2, -3]
    assert [record.message for record in caplog.records] == [
        "steps could not be compiled and run uncompiled, which is slower: a bug"
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
@pytest.mark.filterwarnings("ignore")
def test_compiled_mixtures_choose_what_plain_ones_choose():
    """The token's embedding without a product where all rows have a single weight; the mean otherwise."""
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
