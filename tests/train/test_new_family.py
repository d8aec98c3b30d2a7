"""A family of thoughts that the package does not know, with parameters of its own: one file (tests/gated.py) and one
line in a table are enough to roll out, train, save, resume, evaluate and export it."""

import json
import logging
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

import gated
from gated import Gated
from plain_loop import plain_rollout
from softtokens import cli
from softtokens.models import thought_head
from softtokens.models.hf import load_policy
from softtokens.ops.random import Keys
from softtokens.rollout.batches import sample_problems
from softtokens.rollout.decode import sample_rollout
from softtokens.rollout.limits import Limits
from softtokens.rollout.record import Kind, Rollout
from softtokens.rollout.replay import replay, stored_draws
from softtokens.train.gradient import Batch, accumulate_gradient
from softtokens.train.objective import TermWeights
from softtokens.train.weights import Weights
from softtokens.types import Problem
from train.processes import run_in_two
from train.test_processes import assert_same_up_to_rounding

HEAD = thought_head.FILE
QUICK = ("--mode", "gated", "--validate-every", "0", "--warmup-steps", "0", "--schedule", "constant")


@pytest.fixture
def registered(monkeypatch):
    gated.register(monkeypatch.setitem, monkeypatch.setattr)


@pytest.fixture
def policy(make_policy):
    policy = make_policy("llama-untied", dtype=torch.float64)
    thought_head.require(policy.model, Gated().new_head, seed=3)
    return policy


def weights_in(run):
    folder = run / "checkpoints/last"
    return load_file(folder / "model.safetensors"), load_file(folder / HEAD)


def test_the_engine_does_what_the_plain_loop_does(policy, prompts):
    limits, thought = Limits(6, 3), Gated(0.8)
    keys = Keys(11, torch.arange(6) // 2, torch.arange(6) % 2)
    rollout = sample_rollout(policy, thought, prompts, [0, 0, 1, 1, 2, 2], keys, limits)
    fed = thought.fed(stored_draws(rollout), policy.vocabulary).split(rollout.thought_lengths.tolist())
    for row in range(rollout.rows):
        plain = plain_rollout(policy, thought, prompts[row // 2], keys[torch.tensor([row])], limits)
        assert rollout.ids[row, : int(rollout.lengths[row])].tolist() == plain.ids
        expected = [x for x, kind in zip(plain.fed, plain.kind, strict=True) if kind == Kind.THOUGHT]
        torch.testing.assert_close(fed[row].float(), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_the_unrolled_computation(policy, tmp_path):
    """Of every parameter, the gate's through what it fed. The rollout has been on a disk."""
    problems = [Problem(i, f"User: {q} Assistant:", "3") for i, q in enumerate(("Tom has 4 apples.", "3 Tom"))]
    rollout = sample_problems(policy, Gated(0.7), problems, [range(3)] * 2, Limits(7, 5), seed=3)
    rollout.save(tmp_path / "rollout.safetensors")
    rollout = Rollout.load(tmp_path / "rollout.safetensors")
    advantages = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, -0.5], dtype=torch.float64)
    weights = Weights(policy)
    batch = Batch(Gated(0.7), rollout, advantages, rollout.rows)
    accumulate_gradient(weights, batch, TermWeights(), tokens_per_backward=30)
    ours = {name: p.grad.clone() for name, p in weights.parameters.items()}
    weights.put_gradients(None)

    loss, model = 0.0, policy.model
    for row in range(rollout.rows):
        tokens, kinds = rollout.ids[row, : int(rollout.lengths[row])], rollout.kind[row].tolist()
        inputs, step = [], 0
        for token, kind in zip(tokens, kinds, strict=False):
            x = model.get_input_embeddings().weight[token]
            if kind == Kind.THOUGHT:
                gate = torch.sigmoid(model.thought_head[0].weight @ x + model.thought_head[0].bias)
                x = gate * x + (1 - gate) * rollout.stored["mixture"][row, step].double()
                step += 1
            inputs.append(x)
        logits = model(inputs_embeds=torch.stack(inputs)[None]).logits[0, :-1, : len(policy.tokenizer)]
        for at, token in enumerate(tokens[1:].tolist()):
            if kinds[at + 1] in (Kind.THOUGHT, Kind.ANSWER):
                temperature = 0.7 if kinds[at + 1] == Kind.THOUGHT else 1.0
                log_prob = torch.log_softmax(logits[at] / temperature, -1)[token]
                loss = loss - advantages[row] * log_prob / rollout.rows
    expected = dict(zip(ours, torch.autograd.grad(loss, list(weights.parameters.values())), strict=True))
    assert expected["thought_head.0.weight"].abs().max() > 0
    scale = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6 * scale, msg=name)


def test_a_replay_gives_the_log_probs_of_the_rollout(policy, prompts):
    keys = Keys(11, torch.arange(9) // 3, torch.arange(9) % 3)
    rollout = sample_rollout(policy, Gated(), prompts, [i // 3 for i in range(9)], keys, Limits(7, 5))
    again = replay(policy, Gated(), rollout)
    torch.testing.assert_close(
        again.thought_log_prob[again.is_thought_step], rollout.log_prob[rollout.is_thought], check_dtype=False
    )


def test_training_moves_the_head_and_resumes_to_the_bit(registered, flags, tmp_path, text_rewards):
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert cli.main(flags(whole, *QUICK, "--steps", "4")) == 0
    assert cli.main(flags(run, *QUICK, "--steps", "2")) == 0
    _, halfway = weights_in(run)
    assert cli.main(flags(run, *QUICK, "--steps", "4", "--resume")) == 0
    assert (run / "samples.jsonl").read_text() == (whole / "samples.jsonl").read_text()
    for ours, theirs in zip(weights_in(run), weights_in(whole), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (weights_in(run)[1]["0.weight"] - halfway["0.weight"]).abs().max() > 1e-4
    metrics = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert all(m["mismatch/thought_log_prob"] < 1e-4 for m in metrics)

    onward = tmp_path / "onward"
    assert cli.main(flags(onward, *QUICK, "--steps", "4", "--from", f"{run}@2")) == 0
    assert all(torch.equal(weights_in(onward)[1][name], x) for name, x in weights_in(whole)[1].items())


HOOK = "import gated\nfrom operator import setitem\ngated.register(setitem, setattr)\n"


def test_two_processes_do_what_one_does(registered, flags, tmp_path, text_rewards):
    settings = (*QUICK, "--steps", "2", "--group-size", "8")
    ways = ("ddp", "fsdp")
    run_in_two(tmp_path, *(flags(tmp_path / way, *settings, "--parallel", way) for way in ways), hook=HOOK)
    assert cli.main(flags(tmp_path / "one", *settings)) == 0
    for way in ways:
        assert_same_up_to_rounding(tmp_path / way, tmp_path / "one")
        ours, theirs = weights_in(tmp_path / way)[1], weights_in(tmp_path / "one")[1]
        start = gated_start(theirs["0.weight"].shape[0])
        moved = sum(float((theirs[name] - start[name]).square().sum()) for name in theirs) ** 0.5
        apart = sum(float((theirs[name] - ours[name]).square().sum()) for name in theirs) ** 0.5
        assert moved > 0.01 and apart < 0.02 * moved


def gated_start(dim):
    """The head of a run with the seed of `flags`."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Gated().new_head(dim).state_dict()


@pytest.mark.parametrize(
    "extra", [(), ("--lora-rank", "2"), ("--dtype", "bfloat16")], ids=["whole", "lora", "bfloat16"]
)
def test_saved_evaluated_and_exported(registered, flags, tmp_path, text_rewards, data_file, caplog, extra):
    from transformers import AutoModelForCausalLM

    run, out, exported = tmp_path / "run", tmp_path / "out", tmp_path / "exported"
    assert cli.main(flags(run, *QUICK, "--steps", "2", *extra)) == 0
    head = load_file(run / "checkpoints/last" / HEAD)
    assert (head["0.weight"] - gated_start(32)["0.weight"]).abs().max() > 1e-4
    task = ["--task", str(data_file), "--template", "User: {question}", "--grader", "exact", "--device", "cpu"]
    task += [
        "--max-thought-steps",
        "4",
        "--max-answer-tokens",
        "3",
        "--samples",
        "2",
        "--profile",
        "2",
        "--traces",
        "1",
    ]
    assert cli.main(["evaluate", "--models", str(run), *task, "--settings", "as-trained", "--output", str(out)]) == 0
    cell = "run/problems/as-trained"
    summary = json.loads((out / "cells" / cell / "summary.json").read_text())
    assert (summary["temperature"], summary["gamma"], summary["thought"]["mode"]) == (1.0, None, "gated")
    assert json.loads((out / "cells" / cell / "profile.json").read_text())["generations"] == 2
    assert (out / "traces" / f"{cell}.jsonl").read_text().count("\n") == 1
    assert (
        cli.main(["generate", "Tom", "--model", str(run), "--setting", "as-trained", "--trace", "--device", "cpu"]) == 0
    )
    assert cli.main(["report", str(run), str(out), "--output", str(tmp_path / "report.html")]) == 0

    assert cli.main(["export", str(run), str(exported)]) == 0
    assert all(torch.equal(x, head[name]) for name, x in load_file(exported / HEAD).items())
    caplog.clear()
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        model = AutoModelForCausalLM.from_pretrained(exported)
    assert not caplog.records
    assert "thought_head.0.weight" not in model.state_dict()
    ours, theirs = load_policy(exported), load_policy(run)
    assert ours.model.state_dict().keys() == theirs.model.state_dict().keys()
    # a different head makes a different model
    save_file({name: x + 1 for name, x in head.items()}, run / "checkpoints/last" / HEAD)
    assert cli.main(["evaluate", "--models", str(run), *task, "--settings", "as-trained", "--output", str(out)]) == 2


def test_a_missing_head_or_another_ones_is_refused(registered, flags, tmp_path, text_rewards, capsys):
    run, hard = tmp_path / "run", tmp_path / "hard"
    assert cli.main(flags(run, *QUICK, "--steps", "2")) == 0
    assert cli.main(flags(hard, *QUICK, "--steps", "2", "--mode", "hard")) == 0
    show = ["generate", "Tom", "--setting", "as-trained", "--device", "cpu", "--model"]

    def refused(*command):
        capsys.readouterr()
        assert cli.main([str(part) for part in command]) == 2
        return " ".join(capsys.readouterr().err.split())

    onward = flags(tmp_path / "onward", *QUICK, "--steps", "3", "--from", f"{hard}@2")
    assert "the model has no thought head (thought_head.safetensors), which these thoughts need" in refused(*onward)
    file = run / "checkpoints/step-000002" / HEAD
    head = load_file(file)
    save_file({name: x[:-1] for name, x in head.items()}, file)
    message = refused(*show, run)
    assert (
        "(thought_head.safetensors) does not fit these thoughts" in message and "size mismatch for 0.weight" in message
    )
    save_file({**head, "0.bias": head["0.bias"] * float("nan")}, file)
    assert "numbers that are not finite in 0.bias" in refused(*show, run)
    file.write_bytes(b"nonsense")
    assert "thought_head.safetensors cannot be read" in refused(*show, run)
    file.unlink()
    assert "is missing its thought_head.safetensors; copy the whole checkpoint" in refused(*show, run)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        message = refused(*flags(run, *QUICK, "--steps", "3", "--resume"))
    assert "are damaged; restore one" in message


def test_a_family_without_a_head_leaves_it_as_it_is(registered, flags, tmp_path, text_rewards):
    run, onward = tmp_path / "run", tmp_path / "onward"
    assert cli.main(flags(run, *QUICK, "--steps", "2")) == 0
    assert cli.main(flags(onward, *QUICK, "--steps", "2", "--mode", "hard", "--model", str(run))) == 0
    assert all(torch.equal(x, weights_in(run)[1][name]) for name, x in weights_in(onward)[1].items())


def test_its_signal_is_measured_beside_that_of_others(registered, model_folder, data_file, tmp_path, text_rewards):
    flags = ["signal", "--model", str(model_folder), "--task", str(data_file), "--template", "User: {question}"]
    flags += ["--grader", "exact", "--group-size", "4", "--max-thought-steps", "4", "--max-answer-tokens", "3"]
    flags += ["--batches", "3", "--modes", "hard", "gated", "--device", "cpu", "--output", str(tmp_path / "signal")]
    assert cli.main(flags) == 0
    measured = json.loads((tmp_path / "signal/signal.json").read_text())["settings"]
    assert [setting["thought"]["mode"] for setting in measured] == ["hard", "gated"]
    assert measured[1]["terms"]["thought"] != measured[0]["terms"]["thought"]
