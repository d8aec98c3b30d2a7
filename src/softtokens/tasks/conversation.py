"""Conversations in the rows of a data set: a list of messages, each with a role and a content."""

from __future__ import annotations

from typing import Any

from softtokens.tasks.files import as_text
from softtokens.types import Messages, UserError


def is_conversation(value: object) -> bool:
    """Whether a cell holds messages and not a text."""
    return isinstance(value, list)


def as_messages(value: object, *, where: str) -> Messages:
    """The messages of a cell, ready for a chat template: an optional system message, earlier turns, and the user's turn
    that the model is to answer. A content of several parts of text becomes one text.

    UserError for anything else, such as messages without a user turn or with the answer at their end.
    """
    if not isinstance(value, list) or not value:
        raise UserError(f"{where} is {str(value)[:60]!r}; it has to be a text or a list of messages")
    messages = tuple(_message(message, f"{where}, message {i}") for i, message in enumerate(value))
    roles = [message["role"] for message in messages]
    listed = ", ".join(roles)
    if "user" not in roles:
        raise UserError(
            f"{where} has the messages {listed} and no turn of the user, so there is nothing to answer; add one with "
            'the role "user", or remove the row'
        )
    if roles[-1] == "assistant":
        raise UserError(
            f"{where} ends with the assistant's turn ({listed}), but a prompt ends where the model is to answer; move "
            'that turn into a column "solution" or "answer"'
        )
    return messages


def _message(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not {"role", "content"} <= value.keys():
        raise UserError(f'{where} is {str(value)[:60]!r}; it has to be an object {{"role": ..., "content": ...}}')
    role = as_text(value["role"], what=f"{where}: the role")
    given = {key: entry for key, entry in value.items() if entry is not None}  # columns that only some messages have
    return {**given, "role": role, "content": _content(value["content"], where)}


def _content(value: object, where: str) -> str:
    if isinstance(value, list):
        kinds = {part.get("type") if isinstance(part, dict) else type(part).__name__ for part in value}
        if kinds != {"text"}:
            raise UserError(f"{where} has parts of the kinds {', '.join(map(str, kinds))}; only text can be read")
        value = "".join(as_text(part.get("text"), what=f"{where}: a part of the content") for part in value)
    return as_text(value, what=f"{where}: the content")
