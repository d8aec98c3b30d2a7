"""Chat prompts from the command line: training, evaluation, signal and generation make the same ones."""

from __future__ import annotations

import copy
import json

import pytest

from chat_tokenizers import TEMPLATES, chat_tokenizer
from conftest import EXTRA_ROWS, build_model
from softtokens.endings import THINK
from softtokens.models.chat import Chat
from softtokens.models.hf import HFPolicy, load_policy

LOUD = (
    "{% for message in messages %}[{{ message.role }}] {{ message.content }}<eos>{% endfor %}"
    "[assistant]{% if loud %}!{% endif %}"
)
STRICT = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"
LIMITS = ["--max-thought-steps", "3", "--max-answer-tokens", "3", "--device", "cpu"]
CHAT = ["--chat", "--system", "Be brief.", "--chat-kwargs", '{"loud": true}', "--template", "Q: {question}"]


@pytest.fixture(scope="module")
def chat_folder(tokenizer, tmp_path_factory):
    own = copy.deepcopy(tokenizer)
    own.chat_template = LOUD
    folder = tmp_path_factory.mktemp("chat-model")
    HFPolicy(build_model("llama", len(own) + EXTRA_ROWS), own).save(folder)
    assert (folder / "chat_template.jinja").is_file()
    return folder


def prompt(question: str, system: str | None = "Be brief.") -> str:
    return f"{'' if system is None else f'[system] {system}<eos>'}[user] Q: {question}<eos>[assistant]!"


@pytest.fixture
def spied(monkeypatch):
    """Every prompt that is encoded."""
    from softtokens.rollout import batches

    prompts: list[str] = []
    encode = batches.problem_ids

    def encoding(policy, problems):
        prompts.extend(problem.prompt for problem in problems)
        return encode(policy, problems)

    monkeypatch.setattr(batches, "problem_ids", encoding)
    return prompts


def test_a_run_on_chat_prompts_and_what_follows_it(run, chat_folder, data_file, tmp_path, spied):
    task = ["--task", data_file, "--grader", "exact", *CHAT, *LIMITS]
    sizes = ["--steps", "2", "--group-size", "2", "--validation", data_file, "--validate-every", "2"]
    output = tmp_path / "run"
    code, _, err = run("train", "--model", chat_folder, "--output", output, *task, *sizes)
    assert (code, err) == (0, "")
    asked = {prompt("Tom has 4 apples."), prompt("3")}
    assert {json.loads(line)["prompt"] for line in (output / "samples.jsonl").read_text().splitlines()} <= asked
    assert set(spied) == asked
    policy = load_policy(output)
    assert (policy.template, policy.chat) == ("Q: {question}", Chat("Be brief.", {"loud": True}))

    spied.clear()
    assert run("generate", "3", "--model", output, *LIMITS)[0] == 0
    assert set(spied) == {prompt("3")}
    spied.clear()
    assert run("generate", "3", "--model", output, "--system", "Shout.", *LIMITS)[0] == 0
    assert set(spied) == {prompt("3", "Shout.")}
    spied.clear()
    where = ["--models", output, "--output", tmp_path / "eval", "--settings", "hard-greedy"]
    assert run("evaluate", *where, *task)[::2] == (0, "")
    assert set(spied) == asked
    code, _, err = run("evaluate", *where, *task, "--chat-kwargs", "{}")
    assert code == 2 and "chat_kwargs was '{\"loud\": true}', is '{}'" in err
    spied.clear()
    code, _, err = run("signal", "--model", output, *task, "--batches", "3", "--group-size", "2")
    assert set(spied) == asked
    assert code == 0 or "no gradient to measure" in err


def test_plain_prompts_for_a_model_trained_on_chat_are_warned_of(run, chat_folder, data_file, tmp_path, caplog):
    policy = load_policy(chat_folder)
    policy.template, policy.chat = "{question}", Chat()
    policy.save(tmp_path / "trained")
    where = ["--models", f"m={tmp_path / 'trained'}", "--output", tmp_path / "eval", "--settings", "hard-greedy"]
    task = ["--task", data_file, "--grader", "exact", *LIMITS]
    assert run("evaluate", *where, *task)[0] == 0
    assert (
        "model 'm' was trained on chat prompts, and task 'problems' has plain text prompts; add --chat" in caplog.text
    )


def test_another_chat_template_is_another_model(run, chat_folder, data_file, tmp_path):
    where = ["--models", f"m={chat_folder}", "--output", tmp_path / "eval", "--settings", "hard-greedy"]
    task = ["--task", data_file, "--grader", "exact", "--chat", *LIMITS]
    assert run("evaluate", *where, *task)[0] == 0
    other = load_policy(chat_folder)
    other.tokenizer.chat_template = "{{ messages[0].content }}"
    other.save(tmp_path / "other")
    code, _, err = run("evaluate", "--models", f"m={tmp_path / 'other'}", *where[2:], *task)
    assert code == 2 and "model 'm' has other weights or another tokenizer" in err


def test_special_tokens_of_the_data_are_warned_of(run, chat_folder, tmp_path, caplog):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": "A<eos>B", "answer": "1"}\n{"question": "A", "answer": "1"}\n')
    training = ["--model", chat_folder, "--steps", "1", "--group-size", "2", "--validate-every", "0", *LIMITS]
    for number, chat in enumerate(([], ["--chat"])):
        output = ["--output", tmp_path / str(number)]
        assert run("train", "--task", file, "--grader", "exact", *training, *output, *chat)[0] == 0
        assert "the task has 1 of 2 prompts whose data writes out special tokens, such as '<eos>'" in caplog.text
        caplog.clear()
    output = ["--output", tmp_path / "asked", "--special-tokens"]
    assert run("train", "--task", file, "--grader", "exact", *training, *output)[0] == 0
    assert "writes out" not in caplog.text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--chat"], "chat is on, but the tokenizer has no chat template"),
        (["--system", "x"], "system is given without chat"),
        (["--chat-kwargs", '{"a": 1}'], "chat_kwargs is given without chat"),
        (["--chat", "--chat-kwargs", "{a: 1}"], "chat_kwargs is '{a: 1}', which is not JSON"),
        (["--chat", "--chat-kwargs", "[1]"], "chat_kwargs is '[1]'; it must be a JSON object"),
        (["--chat", "--system", " "], "system is ' '; it must be a text"),
    ],
)
def test_what_makes_no_chat_is_one_sentence(run, model_folder, data_file, tmp_path, flags, message):
    where = ["--model", model_folder, "--task", data_file, "--output", tmp_path / "run", "--validate-every", "0"]
    code, _, err = run("train", *where, *flags, *LIMITS)
    assert (code, len(err.splitlines())) == (2, 1)
    assert message in err
    assert not (tmp_path / "run").exists()


def test_a_thinking_model_is_one_everywhere(run, tokenizer, data_file, tmp_path, caplog):
    own = chat_tokenizer(tokenizer, TEMPLATES["deepseek_r1_distill"])
    HFPolicy(build_model("llama", len(own)), own).save(tmp_path / "model")
    task = ["--task", data_file, "--grader", "exact", *LIMITS]
    sizes = ["--steps", "1", "--group-size", "2", "--validate-every", "0"]
    run_folder = tmp_path / "run"
    code, _, err = run("train", "--model", tmp_path / "model", "--output", run_folder, "--chat", *task, *sizes)
    assert code == 0 and "thoughts end with </think>" in err + caplog.text
    assert load_policy(run_folder).endings == THINK
    (line, *_) = (json.loads(line) for line in (run_folder / "samples.jsonl").read_text().splitlines())
    assert line["prompt"].endswith("<think>\n") and line["stop"] in THINK.reasons
    metrics = json.loads((run_folder / "metrics.jsonl").read_text().splitlines()[0])
    assert {name for name in metrics if "think" in name}
    where = ["--models", f"m={run_folder}", "--output", tmp_path / "eval", "--settings", "hard-greedy"]
    assert run("evaluate", *where, *task, "--chat")[0] == 0
    assert "end otherwise here" not in caplog.text
    code, _, err = run("evaluate", *where, *task, "--chat", "--endings", "paper")
    assert code == 2 and "endings.preset was auto, is paper" in err
    assert "the thoughts of model 'm' end otherwise here than in its training" in caplog.text
    code, out, _ = run("generate", "3", "--model", run_folder, "--max-thought-steps", "2", "--device", "cpu")
    assert code == 0 and "ended by " in out
    code, out, _ = run("generate", "3", "--model", run_folder, "--thought-end", "zzz", "--forced-text", "Qq:", *LIMITS)
    assert code == 0 and "zzzQq:" in out and "ended by limit" in out


@pytest.mark.parametrize(
    ("template", "rows", "flags", "message"),
    [
        (STRICT, [{"question": "A?", "answer": "1"}], ["--system", "x"], "takes no system message (no system)"),
        (LOUD, [{"prompt": [{"role": "system", "content": "x"}], "answer": "1"}], [], "no turn of the user"),
        (LOUD, [{"question": "A?", "answer": "1"}], ["--chat-kwargs", '{"lout": 1}'], "did you mean 'loud'?"),
        (LOUD, [{"question": "A?", "answer": "1"}], ["--endings", "think"], "</think> is 8 tokens of this tokenizer"),
    ],
    ids=["system", "user", "variable", "think"],
)
def test_what_a_template_cannot_take_is_one_sentence(run, tokenizer, tmp_path, template, rows, flags, message):
    own = copy.deepcopy(tokenizer)
    own.chat_template = template
    HFPolicy(build_model("llama", len(own)), own).save(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = ["--model", tmp_path / "model", "--task", tmp_path / "rows.jsonl", "--chat", *flags, *LIMITS]
    code, _, err = run("train", *task, "--output", tmp_path / "run", "--validate-every", "0")
    assert (code, len(err.splitlines())) == (2, 1) and message in err
    assert not (tmp_path / "run").exists()


def test_generate_needs_chat_for_what_belongs_to_it(run, model_folder):
    code, _, err = run("generate", "3", "--model", model_folder, "--system", "x", *LIMITS)
    assert (code, len(err.splitlines())) == (2, 1) and "system is given, but the prompt is plain text" in err
