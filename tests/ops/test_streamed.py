"""The streamed operations compared with the obvious ones: values and gradients, for any chunks."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from softtokens.ops import reference, streamed
from softtokens.ops.mixture import Concentration, tempered_log_softmax, tempered_softmax
from softtokens.ops.vocabulary import Vocabulary

ROWS, DIM, VOCAB = 11, 5, 37


@pytest.fixture(autouse=True, params=["in place", "in few passes"])
def form(request, monkeypatch):
    """Every test runs the operations as a CPU does and as a GPU does, the latter without compiling them."""
    if request.param == "in few passes":
        monkeypatch.setattr(streamed, "_in_few_passes", lambda x: True)
        monkeypatch.setattr(streamed, "_compiled", lambda function: function)


TRANSFORMS = {
    "plain": {"size": VOCAB},
    "unused rows": {"size": VOCAB - 4},
    "gemma": {"size": VOCAB - 4, "softcap": 3.0, "table_scale": 2.0},
    "cohere, with a bias": {"size": VOCAB, "logit_scale": 0.5, "bias": True},
}
TEMPERATURES = [1.0, 0.3, 1e-2, 1e-4]


def leaves(*, bias=False, tied=False, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden, head, table = (torch.randn(n, DIM, dtype=dtype, generator=generator) for n in (ROWS, VOCAB, VOCAB))
    made = {"hidden": hidden, "head": head, "table": head if tied else table}
    if bias:
        made["bias"] = torch.randn(VOCAB, dtype=dtype, generator=generator)
    return {name: x.requires_grad_() for name, x in made.items()}


def vocabulary_of(x, transform):
    return Vocabulary(x["head"], x["table"], **{**transform, "bias": x.get("bias")})


def obvious_mixture(v, hidden, tau):
    return v.mix(tempered_softmax(v.logits(hidden), tau))


def obvious_log_prob(v, hidden, tokens, temperature):
    return tempered_log_softmax(v.logits(hidden), temperature).gather(-1, tokens[:, None])[:, 0]


def gradients(value, x, upstream):
    result = torch.autograd.grad(value, list(x.values()), upstream, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(result, x.values(), strict=True)]


def assert_all_close(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        a, b = a.detach(), b.detach()
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))


every_transform = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)


@every_transform
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("tau", TEMPERATURES)
def test_mixture_equals_the_obvious_one(transform, tied, tau):
    x = leaves(bias="bias" in transform, tied=tied)
    v = vocabulary_of(x, transform)
    upstream = torch.randn(ROWS, DIM, dtype=torch.float64)
    obvious = obvious_mixture(v, x["hidden"], tau)
    expected = gradients(obvious, x, upstream)
    for chunk_rows, known in itertools.product((1, 4, 100), (None, upstream)):
        ours, soft = streamed.mixture(v, x["hidden"], tau, chunk_rows=chunk_rows, expected_gradient=known)
        assert_all_close([ours, *gradients(ours, x, upstream)], [obvious, *expected], 1e-10)
        of_logits = Concentration.of(v.logits(x["hidden"]), tau)
        assert_all_close(dataclasses.astuple(soft), dataclasses.astuple(of_logits), 1e-10)
    in_reference = reference.mixture(x["hidden"], v.head[: v.size], v.table[: v.size], tau)
    if transform is TRANSFORMS["plain"]:
        torch.testing.assert_close(ours, in_reference)


@every_transform
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_log_prob_of_tokens_equals_the_obvious_one(transform, temperature):
    x = leaves(bias="bias" in transform)
    v = vocabulary_of(x, transform)
    tokens = torch.arange(ROWS) * 3
    upstream = torch.randn(ROWS, dtype=torch.float64)
    obvious = obvious_log_prob(v, x["hidden"], tokens, temperature)
    expected = gradients(obvious, x, upstream)
    for chunk_rows, known in itertools.product((1, 4, 100), (None, upstream)):
        ours, soft = streamed.token_log_prob(
            v, x["hidden"], tokens, temperature, chunk_rows=chunk_rows, expected_gradient=known
        )
        assert_all_close([ours, *gradients(ours, x, upstream)], [obvious, *expected], 1e-10)
        of_logits = Concentration.of(v.logits(x["hidden"]), temperature)
        assert_all_close(dataclasses.astuple(soft), dataclasses.astuple(of_logits), 1e-10)


@every_transform
def test_gradients_agree_with_finite_differences(transform):
    x = leaves(bias="bias" in transform)
    tokens = torch.arange(ROWS)

    def both(*values):
        x_now = dict(zip(x, values, strict=True))
        v = vocabulary_of(x_now, transform)
        mean, _ = streamed.mixture(v, x_now["hidden"], 0.4, chunk_rows=4)
        return mean, streamed.token_log_prob(v, x_now["hidden"], tokens, 0.7, chunk_rows=4)[0]

    assert torch.autograd.gradcheck(both, tuple(x.values()))


@pytest.mark.parametrize("frozen", [("head",), ("table",), ("hidden",), ("head", "table")])
def test_what_is_frozen_gets_no_gradient_and_does_not_change_the_others(frozen):
    upstream = torch.randn(ROWS, DIM, dtype=torch.float64)

    def of(frozen):
        x = leaves()
        for name in frozen:
            x[name].requires_grad_(False)
        value, _ = streamed.mixture(vocabulary_of(x, TRANSFORMS["plain"]), x["hidden"], 0.5)
        value.backward(upstream)
        return {name: p.grad for name, p in x.items()}

    whole, part = of(()), of(frozen)
    for name in whole:
        assert part[name] is None if name in frozen else torch.equal(part[name], whole[name])


def test_an_unexpected_gradient_is_served_all_the_same():
    x = leaves()
    v = vocabulary_of(x, TRANSFORMS["plain"])
    expected, real = torch.randn(2, ROWS, DIM, dtype=torch.float64)
    plain, _ = streamed.mixture(v, x["hidden"], 0.5)
    surprised, _ = streamed.mixture(v, x["hidden"], 0.5, expected_gradient=expected)
    assert_all_close(gradients(surprised, x, real), gradients(plain, x, real), 1e-12)


def test_the_backward_pass_is_spared_where_the_gradient_was_known(monkeypatch):
    calls = []
    logits = Vocabulary.logits_and_slope
    monkeypatch.setattr(Vocabulary, "logits_and_slope", lambda *a: calls.append(1) or logits(*a))
    upstream = torch.randn(ROWS, DIM, dtype=torch.float64)
    for known, expected_calls in ((None, 2), (upstream, 1)):
        x = leaves()
        calls.clear()
        value, _ = streamed.mixture(vocabulary_of(x, TRANSFORMS["plain"]), x["hidden"], 0.5, expected_gradient=known)
        value.backward(upstream)
        assert len(calls) == expected_calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_single_weights_take_the_embedding_itself(dtype):
    """At tau 1e-4 nearly every row is one token; a tie or a near tie is not."""
    x = {name: p.detach() for name, p in leaves(dtype=dtype).items()}
    x["hidden"][3] = 0.0  # all logits tie
    x["head"][7] = x["head"][5]
    x["hidden"][4] = 10 * x["head"][5]  # the two largest tie
    v = vocabulary_of(x, TRANSFORMS["plain"])
    mean, soft = streamed.mixture(v, x["hidden"], 1e-4)
    logits = v.logits(x["hidden"])
    single = torch.ones(ROWS, dtype=torch.bool)
    single[3:5] = False
    assert torch.equal(mean[single], x["table"][logits.argmax(-1)][single])
    torch.testing.assert_close(mean[3], x["table"].mean(0))
    torch.testing.assert_close(mean[4], x["table"][[5, 7]].mean(0))
    torch.testing.assert_close(soft.effective_support[3:5], torch.tensor([VOCAB, 2.0], dtype=dtype))


def test_impossible_and_huge_logits():
    x = {name: p.detach() for name, p in leaves(bias=True).items()}
    x["bias"][::2] = float("-inf")
    x["hidden"][0] *= 1e4
    x = {name: p.requires_grad_() for name, p in x.items()}
    v = vocabulary_of(x, TRANSFORMS["plain"])
    tokens = torch.ones(ROWS, dtype=torch.int64)
    for tau in (1.0, 1e-4):
        for ours, obvious, shape in (
            (streamed.mixture(v, x["hidden"], tau), obvious_mixture(v, x["hidden"], tau), (ROWS, DIM)),
            (streamed.token_log_prob(v, x["hidden"], tokens, tau), obvious_log_prob(v, x["hidden"], tokens, tau), ROWS),
        ):
            upstream = torch.randn(shape, dtype=torch.float64)
            torch.testing.assert_close(ours[0], obvious)
            assert_all_close(gradients(ours[0], x, upstream), gradients(obvious, x, upstream), 1e-9)
            assert all(value.isfinite().all() for value in dataclasses.astuple(ours[1]))


def test_float32_is_enough_down_to_the_smallest_temperature():
    x = {name: p.detach() for name, p in leaves(dtype=torch.float32).items()}
    for tau in TEMPERATURES:
        mean, _ = streamed.mixture(vocabulary_of(x, TRANSFORMS["plain"]), x["hidden"], tau)
        assert mean.dtype == torch.float32
        expected = reference.mixture(x["hidden"], x["head"], x["table"], tau)
        torch.testing.assert_close(mean.double(), expected, rtol=2e-5 / tau, atol=1e-5 / tau * 1e-2)


def test_half_precision_weights_are_summed_in_float32():
    """Logits of bfloat16 weights are not rounded: the result is that of the same weights in float64."""
    x = {name: p.detach().bfloat16() for name, p in leaves().items()}
    v = vocabulary_of(x, TRANSFORMS["plain"])
    mean, _ = streamed.mixture(v, x["hidden"], 0.1)
    exact = reference.mixture(x["hidden"], x["head"], x["table"], 0.1)
    assert mean.dtype == torch.float32
    assert (mean - exact).abs().max() < 1e-5


def test_no_rows():
    x = leaves()
    v = vocabulary_of(x, TRANSFORMS["plain"])
    mean, soft = streamed.mixture(v, x["hidden"][:0], 0.5)
    assert mean.shape == (0, DIM) and soft.entropy.shape == (0,)
    assert not gradients(mean.sum(), x, None)[1].any()
    log_prob, _ = streamed.token_log_prob(v, x["hidden"][:0], torch.zeros(0, dtype=torch.int64), 1.0)
    assert log_prob.shape == (0,)
