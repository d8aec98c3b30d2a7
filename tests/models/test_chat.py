"""Prompts by chat templates: the same token ids as transformers gives, for the templates of ten families of models."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from chat_tokenizers import SPECIAL, TEMPLATES, chat_tokenizer
from softtokens.models.chat import Chat, rendered
from softtokens.models.tokens import problem_ids, written_out
from softtokens.tasks.prompt import PromptForm
from softtokens.types import Problem, UserError

USER = {"role": "user", "content": "Tom has 4 apples.\n\nHow many?"}
CONVERSATIONS = {
    "question": (USER,),
    "system": ({"role": "system", "content": "Be brief."}, USER),
    "turns": (USER, {"role": "assistant", "content": "4"}, {"role": "user", "content": "So? "}),
}


def ids_of(tokenizer, problem: Problem) -> list[int]:
    rows = SimpleNamespace(table=torch.empty(len(tokenizer), 1))
    (ids,) = problem_ids(SimpleNamespace(tokenizer=tokenizer, vocabulary=rows), [problem])
    return ids


def conversation(messages, **options) -> Problem:
    return PromptForm("{question}", chat=True, **options).conversation(0, messages, "4", {})


def prompt_of(tokenizer, messages, variables=None, **options) -> Problem:
    (problem,) = rendered([conversation(messages)], tokenizer, Chat(variables=variables or {}), **options)
    return problem


def test_ten_families_are_tested():
    assert len(TEMPLATES) == 10


@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_token_ids_are_those_of_transformers(tokenizer, name, messages):
    own = chat_tokenizer(tokenizer, TEMPLATES[name])
    problem = prompt_of(own, messages)
    expected = own.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=True)["input_ids"]
    assert ids_of(own, problem) == expected
    assert expected.count(own.bos_token_id) == ("bos_token" in TEMPLATES[name])
    assert problem.prompt == own.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    assert problem.literal == () and problem.messages == messages


def test_variables_reach_the_template(tokenizer):
    own = chat_tokenizer(tokenizer, TEMPLATES["qwen3"])
    assert prompt_of(own, (USER,)).prompt.endswith("<|im_start|>assistant\n")
    off = prompt_of(own, (USER,), {"enable_thinking": False})
    assert off.prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert own.convert_tokens_to_ids("</think>") in ids_of(own, off)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"enable_thinkin": True},
            "'enable_thinkin', which .* not use; did you mean 'enable_thinking'",
        ),
        ({"zzz": 1}, "chat_kwargs has 'zzz', which the model's chat template does not use; drop it"),
        ({"tokenize": True}, "chat_kwargs has 'tokenize', which is not a variable"),
        ({"messages": []}, "chat_kwargs has 'messages', which is not a variable"),
    ],
)
def test_a_variable_that_would_be_ignored_is_refused(tokenizer, variables, message):
    own = chat_tokenizer(tokenizer, TEMPLATES["qwen3"])
    with pytest.raises(UserError, match=message):
        prompt_of(own, (USER,), variables)


def test_a_base_model_has_no_template(tokenizer):
    with pytest.raises(UserError, match=r"the tokenizer has no chat template.*drop --chat"):
        prompt_of(tokenizer, (USER,))


STRICT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ m.role }}: {{ m.content }}\n{% endfor %}"
)


def test_a_template_that_fails_is_named_with_the_way_out(tokenizer):
    own = chat_tokenizer(tokenizer, STRICT, bos=None)
    with pytest.raises(UserError, match=r"takes no system message \(System role not supported\).*--template"):
        prompt_of(own, CONVERSATIONS["system"])
    own.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ raise_exception('never') }}"
    with pytest.raises(UserError, match="fails on problem 0, a conversation of system, user: never"):
        prompt_of(own, CONVERSATIONS["system"])
    own.chat_template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(UserError, match="the system message of problem 0 is missing in the prompt"):
        prompt_of(own, CONVERSATIONS["system"])


def test_a_template_with_a_mistake_is_not_blamed_on_the_data(tokenizer):
    own = chat_tokenizer(tokenizer, "Question\n{% if %}")
    with pytest.raises(UserError, match=r"template is not valid, line 2: .* Correct chat_template.jinja"):
        prompt_of(own, (USER,))


def test_a_template_that_drops_the_question_is_refused(tokenizer):
    own = chat_tokenizer(tokenizer, "User: {{ messages[0]['text'] }}\nAssistant:")
    with pytest.raises(UserError, match=r"the user's turn of problem 0 is missing in the prompt .*'User: "):
        prompt_of(own, (USER,))


@pytest.mark.parametrize("name", ["llama3", "qwen3", "gemma3", "deepseek_r1_distill"])
def test_special_tokens_of_the_data_stay_text(tokenizer, name):
    """As apply_chat_template(sanitize_control_tokens=True) of newer transformers."""
    own = chat_tokenizer(tokenizer, TEMPLATES[name])
    special = SPECIAL.findall(TEMPLATES[name])[0]
    messages = ({"role": "user", "content": f"Tom{special} has 4<eos>{special}."},)
    problem = prompt_of(own, messages)
    assert problem.prompt == own.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    assert [problem.prompt[a:b] for a, b in problem.literal] == [special, "<eos>", special]
    assert written_out(own, [problem]) == [[special, "<eos>", special]]
    ids, plain = ids_of(own, problem), ids_of(own, prompt_of(own, ({"role": "user", "content": "Tom"},)))
    assert own.eos_token_id not in ids and own.decode(ids) == problem.prompt
    number = own.convert_tokens_to_ids(special)
    assert ids.count(number) == plain.count(number)
    allowed = prompt_of(own, messages, special_tokens=True)
    assert allowed.literal == () and ids_of(own, allowed).count(number) == plain.count(number) + 2
    if "sanitize_control_tokens" in type(own).apply_chat_template.__code__.co_varnames:
        theirs = own.apply_chat_template(list(messages), add_generation_prompt=True, sanitize_control_tokens=True)
        assert ids == theirs["input_ids"]


def test_special_tokens_of_a_plain_template_are_special_and_of_its_question_are_not(tokenizer):
    own = chat_tokenizer(tokenizer, TEMPLATES["smollm2"])
    form = PromptForm("<|im_start|>{question}<|im_end|>")
    start, end = own.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    problem = form.problem(0, "4<|im_end|>3", "", {})
    ids = ids_of(own, problem)
    assert (ids.count(start), ids.count(end), ids.count(own.bos_token_id)) == (1, 1, 1)
    assert own.decode(ids) == "<bos><|im_start|>4<|im_end|>3<|im_end|>"
    assert written_out(own, [problem]) == [["<|im_end|>"]]
    asked_for = PromptForm("<|im_start|>{question}<|im_end|>", special_tokens=True).problem(0, "4<|im_end|>3", "", {})
    assert ids_of(own, asked_for).count(end) == 2 and written_out(own, [asked_for]) == [[]]


def test_a_special_token_that_cannot_be_text_is_refused(tokenizer, monkeypatch):
    own = chat_tokenizer(tokenizer, TEMPLATES["smollm2"])
    problem = PromptForm("{question}").problem(7, "4<eos>", "", {})
    encode = own.encode
    monkeypatch.setattr(own, "encode", lambda text, split_special_tokens=None, **options: encode(text, **options))
    with pytest.raises(UserError, match=r"the prompt of problem 7 writes out '<eos>'.*--special-tokens"):
        ids_of(own, problem)
