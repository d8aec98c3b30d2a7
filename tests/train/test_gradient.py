"""What must not affect the gradient does not, and what must does."""

import dataclasses
import math

import pytest
import torch

from softtokens.rollout.replay import Replay, replay
from softtokens.train import gradient
from softtokens.train.objective import TermWeights, policy_terms

MODES = ["hard", "soft", "fuzzy"]
WEIGHTS = [TermWeights(), TermWeights(0.25, 3.0), TermWeights(0, 1), TermWeights(1, 0)]


def gradient_of(batch, weights=TermWeights(), **options):  # noqa: B008 (immutable)
    """(gradient by parameter, (replay, losses and norms))"""
    replayed, losses, norms, _ = batch.accumulate(weights, **options)
    return [parameter.grad.clone() for parameter in batch.parameters], (replayed, losses | norms)


def plain_gradient(batch, weights):
    """In one piece, with autograd alone."""
    terms = policy_terms(replay(batch.policy, batch.thought, batch.rollout), batch.advantages, batch.rollout.rows)
    loss = weights.thought * terms[0] + weights.answer * terms[1]
    gradients = torch.autograd.grad(loss, batch.parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(batch.parameters, gradients, strict=True)]


def norm(gradients):
    return math.sqrt(sum(float(g.double().square().sum()) for g in gradients))


def assert_close(ours, theirs):
    """Up to rounding relative to the whole gradient, because single entries may cancel."""
    assert norm(theirs) > 0
    difference = norm([a - b for a, b in zip(ours, theirs, strict=True)])
    assert difference <= 1e-5 * norm(theirs), difference / norm(theirs)


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_is_that_of_the_loss(make_batch, mode, weights):
    batch = make_batch(mode)
    expected = plain_gradient(batch, weights)
    if norm(expected) == 0:
        pytest.skip("no near tie: fuzzy thoughts carry no gradient")
    assert_close(gradient_of(batch, weights)[0], expected)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("tokens", [1, 30, 60])
@pytest.mark.parametrize("mode", MODES)
def test_tokens_per_backward_does_not_matter(make_batch, mode, tokens, apart):
    batch = make_batch(mode)
    whole, (replayed, metrics) = gradient_of(batch, apart=apart)
    parts, (replayed_in_parts, metrics_in_parts) = gradient_of(batch, tokens_per_backward=tokens, apart=apart)
    assert_close(parts, whole)
    assert metrics_in_parts == pytest.approx(metrics, rel=1e-4, abs=1e-3)
    for field in dataclasses.fields(Replay):
        a, b = getattr(replayed_in_parts, field.name), getattr(replayed, field.name)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("mode", MODES)
def test_terms_apart_add_up_to_the_whole(make_batch, mode):
    batch = make_batch(mode)
    whole, (_, metrics) = gradient_of(batch)
    apart, (_, metrics_apart) = gradient_of(batch, apart=True)
    assert_close(apart, whole)
    assert "grad_norm/thought" not in metrics
    for name, weights in (("thought", TermWeights(1, 0)), ("answer", TermWeights(0, 1))):
        assert metrics_apart[f"grad_norm/{name}"] == pytest.approx(norm(gradient_of(batch, weights)[0]), rel=1e-4)


def test_thought_weight_0_is_the_gradient_of_the_answer_alone(make_batch):
    batch = make_batch("soft")
    _, answer = policy_terms(replay(batch.policy, batch.thought, batch.rollout), batch.advantages, batch.rollout.rows)
    expected = torch.autograd.grad(answer, batch.parameters)
    assert_close(gradient_of(batch, TermWeights(0, 1))[0], expected)
    assert_close(gradient_of(batch, TermWeights(0, 1), apart=True)[0], expected)


@pytest.mark.parametrize("apart", [False, True])
def test_a_term_of_weight_0_cannot_spoil_the_other(make_batch, monkeypatch, apart):
    """Zero times infinity would be NaN: the answer-only control must survive thoughts that explode."""
    batch = make_batch("soft")
    expected, _ = gradient_of(batch, TermWeights(0, 1))

    def exploding(*arguments, **options):
        scored = replay(*arguments, **options)
        return dataclasses.replace(scored, thought_surrogate=scored.thought_surrogate * float("inf"))

    monkeypatch.setattr(gradient, "replay", exploding)
    gradients, (_, metrics) = gradient_of(batch, TermWeights(0, 1), apart=apart)
    assert_close(gradients, expected)
    if apart:
        assert metrics["grad_norm/thought"] == 0


@pytest.mark.parametrize("mode", MODES)
def test_problems_without_advantages_run_forward_alone(make_batch, monkeypatch, mode):
    batch = make_batch(mode)
    first = torch.arange(batch.rollout.rows) < 3
    batch = dataclasses.replace(batch, advantages=torch.where(first, batch.advantages, 0.0))
    expected = plain_gradient(batch, TermWeights())
    if norm(expected) == 0:
        pytest.skip("no near tie: fuzzy thoughts carry no gradient")
    runs = []

    def watched(policy, thought, rollout, **options):
        runs.append((rollout.rows, torch.is_grad_enabled(), options["expected"].thought is not None))
        return replay(policy, thought, rollout, **options)

    monkeypatch.setattr(gradient, "replay", watched)
    gradients, (seen, _) = gradient_of(batch)
    assert_close(gradients, expected)
    assert runs == [(3, True, True), (3, False, False)]
    whole = replay(batch.policy, batch.thought, batch.rollout)  # the metrics cover all rows, in order
    for field in dataclasses.fields(Replay):
        a, b = getattr(seen, field.name), getattr(whole, field.name).detach()
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_both_weights_0_give_no_gradient(make_batch):
    assert norm(gradient_of(make_batch("soft"), TermWeights(0, 0))[0]) == 0


def test_clip_each_scales_each_term_down_to_the_norm(make_batch):
    batch = make_batch("soft")
    terms = [gradient_of(batch, weights)[0] for weights in (TermWeights(1, 0), TermWeights(0, 1))]
    assert norm(terms[0]) > 3 * norm(terms[1])  # the thought term of soft dwarfs the answer's
    limit = norm(terms[0]) / 3
    clipped, (_, metrics) = gradient_of(batch, apart=True, clip_each=limit)
    assert_close(clipped, [a / 3 + b for a, b in zip(*terms, strict=True)])
    assert metrics["grad_norm/thought"] == pytest.approx(norm(terms[0]), rel=1e-4)  # measured before clipping

    limit = norm(terms[1]) / 2
    clipped, _ = gradient_of(batch, apart=True, clip_each=limit)
    assert_close(clipped, [a * limit / norm(terms[0]) + b / 2 for a, b in zip(*terms, strict=True)])


def test_clip_each_0_turns_clipping_off(make_batch):
    batch = make_batch("soft")
    assert_close(gradient_of(batch, apart=True, clip_each=0.0)[0], gradient_of(batch)[0])


def test_equal_rewards_leave_the_parameters_alone(make_batch):
    batch = dataclasses.replace(make_batch("soft"), advantages=torch.zeros(6))
    assert norm(gradient_of(batch)[0]) == 0


def test_frozen_parameters_get_no_gradient(make_batch):
    batch = make_batch("hard")
    expected = dict(zip(map(id, batch.parameters), gradient_of(batch)[0], strict=True))
    frozen = batch.policy.model.get_input_embeddings().weight.requires_grad_(False)
    frozen.grad = None
    trained = [p for p in batch.parameters if p.requires_grad]
    batch.accumulate(TermWeights())
    assert frozen.grad is None
    assert_close([p.grad for p in trained], [expected[id(p)] for p in trained])
