"""From conversations to prompts, by the chat template that comes with the tokenizer."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from softtokens.types import Messages, Problem, Spans, UserError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARKS = 0xF0000  # a plane of characters for private use


@dataclasses.dataclass(frozen=True)
class Chat:
    """How a model's prompts are made with its chat template. system: the system message of conversations without one.
    variables: for the template, such as `enable_thinking`."""

    system: str | None = None
    variables: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def rendered(
    problems: Sequence[Problem],
    tokenizer: PreTrainedTokenizerBase,
    chat: Chat,
    *,
    special_tokens: bool = False,
) -> list[Problem]:
    """The problems with the prompts that the tokenizer's chat template makes of their messages, up to where the
    assistant's turn begins. special_tokens: read special tokens that the messages write out as special tokens.

    UserError where the tokenizer has no chat template, or this one fails or ignores what it was given.
    """
    _check_variables(chat.variables, _template_of(tokenizer))
    specials = [] if special_tokens else special_texts(tokenizer)
    return [_rendered(problem, tokenizer, chat.variables, specials) for problem in problems]


def opening_of_reply(tokenizer: PreTrainedTokenizerBase, chat: Chat) -> str:
    """What the chat template puts behind the user's turn, for the model to continue. UserError as from `rendered`."""
    question = Problem(0, "", None, messages=({"role": "user", "content": "1+1?"},))
    (problem,) = rendered([question], tokenizer, Chat(None, chat.variables))
    return problem.prompt.rpartition("1+1?")[2]


def uses_variable(tokenizer: PreTrainedTokenizerBase, name: str) -> bool:
    """Whether the chat template mentions this variable. UserError where there is no chat template."""
    return name in _names_in(_template_of(tokenizer))


def special_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """How the tokenizer's special tokens are written, longest first."""
    texts = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(texts, key=lambda text: (-len(text), text))


def _template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:
        raise UserError(
            "chat is on, but the tokenizer has no chat template, as is usual for base models; use the instruct model, "
            "put a chat_template.jinja into the model's folder, or drop --chat for plain text"
        ) from error


def _check_variables(variables: Mapping[str, Any], template: str) -> None:
    """UserError for a variable that the template never mentions, which jinja would ignore without a word."""
    from transformers import PreTrainedTokenizerBase

    ours = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    names = _names_in(template)
    for name in variables:
        if name in ours or name == "messages":
            raise UserError(f"chat_kwargs has {name!r}, which is not a variable of chat templates to be set; drop it")
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            advice = f"did you mean {close[0]!r}?" if close else "drop it, or look for the name in the template"
            raise UserError(f"chat_kwargs has {name!r}, which the model's chat template does not use; {advice}")


def _names_in(template: str) -> set[str]:
    return set(re.findall(r"[A-Za-z_]\w*", template))


def _rendered(
    problem: Problem, tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, Any], specials: list[str]
) -> Problem:
    where = f"problem {problem.id}"
    marked, mark_of = _marked(problem.messages, specials)
    text = _apply(tokenizer, marked, variables, where)
    prompt, literal = _unmarked(text, {mark: special for special, mark in mark_of.items()})
    for message in problem.messages:
        if message["role"] == "system" and message["content"].strip() not in prompt:
            raise UserError(
                f"the system message of {where} is missing in the prompt that the model's chat template makes; put its "
                "text into the user's turn with --template, and drop the system message"
            )
    asked = [message["content"] for message in problem.messages if message["role"] == "user"]
    if asked and asked[-1].strip() not in prompt:
        raise UserError(
            f"the user's turn of {where} is missing in the prompt that the model's chat template makes "
            f"({prompt[:60]!r}), so the model would not read the question; correct the template, or drop --chat for "
            "plain text"
        )
    return dataclasses.replace(problem, prompt=prompt, literal=literal)


def _apply(tokenizer: PreTrainedTokenizerBase, messages: Messages, variables: Mapping[str, Any], where: str) -> str:
    from jinja2 import TemplateError, TemplateSyntaxError

    def apply(messages: Iterable[Mapping[str, Any]]) -> str:
        conversation = [dict(message) for message in messages]
        text = tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=True, **dict(variables)
        )
        assert isinstance(text, str), "one conversation is one text"
        return text

    try:
        return apply(messages)
    except TemplateSyntaxError as error:
        raise UserError(
            f"the model's chat template is not valid, line {error.lineno}: {first_line(error)}. Correct "
            "chat_template.jinja in the model's folder, or drop --chat for plain text."
        ) from error
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:  # whatever a template can raise
        turns = [message for message in messages if message["role"] != "system"]
        if len(turns) < len(messages):
            try:
                apply(turns)
            except (TemplateError, TypeError, ValueError, KeyError, AttributeError):
                pass
            else:
                raise UserError(
                    f"the model's chat template takes no system message ({first_line(error)}), and {where} has one; "
                    "put its text into the user's turn with --template, and drop the system message"
                ) from error
        roles = ", ".join(str(message["role"]) for message in messages)
        raise UserError(
            f"the model's chat template fails on {where}, a conversation of {roles}: {first_line(error)}. Change the "
            "roles in the data to those the template takes, or drop --chat for plain text."
        ) from error


def _marked(messages: Messages, specials: list[str]) -> tuple[Messages, dict[str, str]]:
    """The messages with a character of their own in the place of each special token that they write out, and which
    stands for which: in the rendered text it tells them from those of the template."""
    contents = "".join(message["content"] for message in messages)
    written = [special for special in specials if special in contents]
    free = (chr(code) for code in range(_MARKS, 0x10FFFE) if chr(code) not in contents)
    mark_of = dict(zip(written, free, strict=False))
    if not written:
        return messages, {}
    pattern = re.compile("|".join(map(re.escape, written)))
    return tuple(
        {**message, "content": pattern.sub(lambda match: mark_of[match[0]], message["content"])} for message in messages
    ), mark_of


def _unmarked(text: str, special_of: Mapping[str, str]) -> tuple[str, Spans]:
    """The text with special tokens in the place of their marks, and where those are."""
    if not special_of:
        return text, ()
    parts, spans, length = [], [], 0
    for part in re.split(f"([{''.join(special_of)}])", text):
        whole = special_of.get(part, part)
        if part in special_of:
            spans.append((length, length + len(whole)))
        parts.append(whole)
        length += len(whole)
    return "".join(parts), tuple(spans)
