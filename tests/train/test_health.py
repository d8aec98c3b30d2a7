"""Steps with values that are not finite are skipped, counted and saved; spikes are counted and clipped."""

import dataclasses
import math

import pytest
import torch

from softtokens import cli
from softtokens.cli.replay_step import replay_step
from softtokens.config.commands import ReplayStepConfig
from softtokens.models.hf import load_policy
from softtokens.rollout.record import Rollout
from softtokens.rollout.replay import replay
from softtokens.rollout.spikes import Spikes, unit_of
from softtokens.train import collect, step, validation
from softtokens.train.gradient import accumulate_gradient
from softtokens.train.objective import TermWeights
from softtokens.types import UserError
from train.test_resume import lines


@pytest.fixture
def spoil(monkeypatch):
    """Make the gradient of some steps (1, 2, ...) not finite; returns the parameters before each step."""

    def spoil(*steps: int, value: float = float("nan")) -> list[list[torch.Tensor]]:
        parameters = []

        def spoiled(weights, *arguments, **options):
            returned = accumulate_gradient(weights, *arguments, **options)
            parameters.append([p.detach().clone() for p in weights.parameters.values()])
            if len(parameters) in steps:
                next(iter(weights.parameters.values())).grad.view(-1)[0] = value
            return returned

        monkeypatch.setattr(step, "accumulate_gradient", spoiled)
        return parameters

    return spoil


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_left_out_and_the_run_goes_on(
    flags, tmp_path, caplog, spoil, text_rewards, value
):
    parameters, run = spoil(3, value=value), tmp_path / "run"
    assert cli.main(flags(run)) == 0
    assert all(torch.equal(a, b) for a, b in zip(parameters[2], parameters[3], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(parameters[3], parameters[4], strict=True))
    logged = lines(run / "metrics.jsonl")
    assert [line["step"] for line in logged if line["skipped"]] == [3]
    assert len(logged) == 8
    assert logged[2]["grad_norm"] is None
    assert "step 3 is skipped: the gradient norm is" in caplog.text


def test_the_case_runs_again_with_the_model_as_it_was(flags, tmp_path, spoil, text_rewards, capsys):
    parameters, run = spoil(3), tmp_path / "run"
    assert cli.main(flags(run)) == 0
    file = run / "repro/step-000003.safetensors"
    capsys.readouterr()
    assert cli.main(["replay-step", str(file), "--rows", "2"]) == 0
    printed = capsys.readouterr().out
    assert "step 3 was skipped: the gradient norm is nan" in printed
    assert (
        "0 of 6 rollouts have a loss or a gradient that is not finite" in printed
    )  # the test broke the summed gradient, not the rollouts
    model = load_policy(run / "repro/step-000003").model
    assert all(torch.equal(a, b) for a, b in zip(parameters[2], model.parameters(), strict=True))
    findings = replay_step(ReplayStepConfig(str(file)))
    assert len(findings) == 6
    assert all(finding.is_finite for finding in findings)
    assert [f.norm for f in findings] == sorted((f.norm for f in findings), reverse=True)
    # the replay gives what sampling gave
    rollout = Rollout.load(file)
    sampled = {
        (int(p), int(r)): float(row.sum())
        for p, r, row in zip(
            rollout.keys.problem, rollout.keys.rollout, rollout.log_prob.where(rollout.is_answer, 0), strict=True
        )
    }
    for f in findings:
        assert f.answer_log_prob == pytest.approx(sampled[f.problem, f.rollout], abs=1e-4)


@pytest.mark.parametrize("mode", ["hard", "soft", "fuzzy"])
def test_a_case_runs_again_in_double_precision(flags, tmp_path, spoil, text_rewards, mode):
    spoil(2)
    run = tmp_path / "run"
    assert cli.main(flags(run, "--mode", mode, "--steps", "2")) == 0
    file = str(run / "repro/step-000002.safetensors")
    by_rollout = [
        {(f.problem, f.rollout): f for f in replay_step(ReplayStepConfig(file, dtype=dtype))}
        for dtype in ("float32", "float64")
    ]
    for which, f in by_rollout[0].items():
        double = by_rollout[1][which]
        assert double.answer_log_prob == pytest.approx(f.answer_log_prob, abs=1e-4)
        assert double.norm == pytest.approx(f.norm, rel=1e-2)


def test_a_case_of_another_model_is_said(flags, tmp_path, spoil, text_rewards, make_policy):
    spoil(2)
    run, other = tmp_path / "run", tmp_path / "other"
    assert cli.main(flags(run, "--steps", "2")) == 0
    make_policy("llama-untied", hidden_size=64).save(other)
    with pytest.raises(UserError, match="so it belongs to another model"):
        replay_step(ReplayStepConfig(str(run / "repro/step-000002.safetensors"), model=str(other)))


def test_rollouts_that_break_are_named(flags, tmp_path, spoil, text_rewards, capsys):
    spoil(2)
    run = tmp_path / "run"
    assert cli.main(flags(run)) == 0
    file = run / "repro/step-000002.safetensors"
    damaged = Rollout.load(file)
    damaged.stored["inputs"][1, 0, 0] = float("inf")
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        header, advantages = opened.metadata(), opened.get_tensor("advantages")
    damaged.save(file, {"advantages": advantages}, {"case": header["case"]})
    findings = replay_step(ReplayStepConfig(str(file)))
    assert [f.is_finite for f in findings] == [False] + [True] * 5
    row = (int(damaged.keys.problem[1]), int(damaged.keys.rollout[1]))
    assert (findings[0].problem, findings[0].rollout) == row


def test_too_many_in_a_row_stop_the_run_with_everything_saved(flags, tmp_path, spoil, text_rewards, capsys):
    parameters = spoil(4, 5, 6, 7)
    run = tmp_path / "run"
    assert cli.main(flags(run, "--max-skipped", "3", "--keep-repro", "2")) == 1
    error = capsys.readouterr().err
    assert "3 steps in a row had numbers that are not finite, the last one 6" in error
    assert "softtokens replay-step" in error
    assert len(lines(run / "metrics.jsonl")) == 6
    assert (run / "checkpoints/last").resolve().name == "step-000006"
    saved = load_policy(run / "checkpoints/last").model.parameters()
    assert all(torch.equal(a, b) for a, b in zip(parameters[3], saved, strict=True))
    # two cases, and one model for both: it did not change between them
    names = sorted(path.name for path in (run / "repro").iterdir())
    assert names == ["step-000004", "step-000004.safetensors", "step-000005.safetensors"]


def test_a_model_that_cannot_be_sampled_is_left_out_too(flags, tmp_path, monkeypatch, text_rewards, capsys):
    calls, sample = [], collect.sample_problems

    def broken(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise FloatingPointError("the model's logits are not finite for problem 1")
        return sample(*arguments, **options)

    monkeypatch.setattr(collect, "sample_problems", broken)
    run = tmp_path / "run"
    assert cli.main(flags(run)) == 0
    assert [line["step"] for line in lines(run / "metrics.jsonl") if line["skipped"]] == [2]
    assert cli.main(["replay-step", str(run / "repro/step-000002.safetensors")]) == 0
    assert "There are no rollouts, because sampling failed" in capsys.readouterr().out.replace("\n", " ")


def test_a_skipped_step_is_not_validated(flags, tmp_path, monkeypatch, text_rewards, capsys):
    """The model that could not be sampled cannot answer either; the run counts to max_skipped and gives its advice."""
    calls, sample = [], collect.sample_problems

    def broken_from_the_second_on(*arguments, **options):
        calls.append(1)
        if len(calls) > 1:
            raise FloatingPointError("the model's logits are not finite for problem 1")
        return sample(*arguments, **options)

    def broken(*arguments, **options):
        raise FloatingPointError("the model's logits are not finite for problem 1")

    monkeypatch.setattr(collect, "sample_problems", broken_from_the_second_on)
    monkeypatch.setattr(validation, "count_right", broken)
    run = tmp_path / "run"
    assert cli.main(flags(run, "--max-skipped", "3", "--validate-every", "2")) == 1
    assert "3 steps in a row had numbers that are not finite, the last one 4" in capsys.readouterr().err
    logged = lines(run / "metrics.jsonl")
    assert [line["skipped"] for line in logged] == [0, 1, 1, 1]
    assert not any("validation/accuracy" in line for line in logged)


def test_log_probabilities_that_are_not_finite_count_where_they_take_part(make_batch):
    batch = make_batch("soft")
    gradient = batch.accumulate(TermWeights())
    spoiled = torch.full_like(gradient.replay.thought_surrogate, -math.inf)
    gradient = gradient._replace(replay=dataclasses.replace(gradient.replay, thought_surrogate=spoiled))
    assert step._not_finite(gradient, TermWeights()) == ["thoughts"]
    assert step._not_finite(gradient, TermWeights(0, 1)) == []


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_what_is_no_case_is_refused(tmp_path, content):
    file = tmp_path / "step-000001.safetensors"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        replay_step(ReplayStepConfig(str(file)))


def watched(batch, *, limit: float = 1e9, clips: bool = False) -> tuple[Spikes, list[torch.Tensor]]:
    for parameter in batch.parameters:
        parameter.grad = None
    spikes = Spikes(limit, clips=clips, unit=unit_of(batch.policy.vocabulary))
    batch.accumulate(TermWeights(1, 0), spikes=spikes)
    return spikes, [p.grad.clone() for p in batch.parameters]


def scores_by_autograd(batch) -> torch.Tensor:
    """The gradient of each thought's log-probability with respect to its own hidden state, one after the other."""
    norms = []

    class Thought(type(batch.thought)):  # type: ignore[misc]  # a base known only here
        def score(self, hidden, vocabulary, drawn, expected_gradient=None):
            scores = super().score(hidden, vocabulary, drawn)
            for i in range(len(hidden)):
                (gradient,) = torch.autograd.grad(scores.surrogate[i], hidden, retain_graph=True)
                norms.append(gradient[i].norm())
            return scores

    values = {f.name: getattr(batch.thought, f.name) for f in dataclasses.fields(batch.thought)}
    replay(batch.policy, Thought(**values), batch.rollout)
    return torch.stack(norms)


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_scores_are_measured_as_autograd_has_them(make_batch, mode):
    batch = make_batch(mode)
    head = batch.policy.vocabulary.head[: batch.policy.vocabulary.size].detach()
    unit = math.sqrt(float(head.square().sum()) / len(head))
    lengths = scores_by_autograd(batch) / unit
    spikes, _ = watched(batch)
    assert spikes.longest == pytest.approx(float(lengths.max()), rel=1e-3)
    limit = float(lengths.median())
    assert watched(batch, limit=limit)[0].count == pytest.approx(int((lengths > limit).sum()), abs=1)


def test_clipping_scales_long_scores_down_and_leaves_values_alone(make_batch):
    batch = make_batch("soft")
    free, whole = watched(batch)
    limit = free.longest / 3
    spikes, clipped = watched(batch, limit=limit, clips=True)
    assert spikes.count >= 1
    assert spikes.longest == pytest.approx(free.longest, rel=1e-3)  # measured before clipping
    scale = (limit * spikes.unit / scores_by_autograd(batch)).clamp(max=1)
    replayed = replay(batch.policy, batch.thought, batch.rollout)
    of_row = batch.advantages[:, None].expand_as(replayed.thought_surrogate)[replayed.is_thought_step]
    loss = -(of_row * scale * replayed.thought_surrogate[replayed.is_thought_step]).sum() / batch.rollout.rows
    expected = torch.autograd.grad(loss, batch.parameters)
    size = float(torch.nn.utils.get_total_norm(expected))
    assert size < 0.7 * float(torch.nn.utils.get_total_norm(whole))
    for a, b in zip(expected, clipped, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * size)
    _, untouched = watched(batch, limit=free.longest * 2, clips=True)
    for a, b in zip(whole, untouched, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()))
    plain, scaled = (
        batch.accumulate(TermWeights(), spikes=Spikes(limit, clips=clips, unit=1.0)) for clips in (False, True)
    )
    torch.testing.assert_close(plain.replay.thought_surrogate, scaled.replay.thought_surrogate)


def test_spikes_are_logged(flags, tmp_path, text_rewards):
    assert cli.main(flags(tmp_path / "run", "--spike-norm", "0.5", "--mode", "soft")) == 0
    assert any(line["thought/spikes"] > 0 for line in lines(tmp_path / "run/metrics.jsonl"))
    assert all(line["thought/longest_score"] >= 0 for line in lines(tmp_path / "run/metrics.jsonl"))
