"""Token ids of prompts, and the vocabulary rows that a tokenizer's tokens own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from softtokens.models.policy import Policy
from softtokens.types import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prompt_ids(policy: Policy, prompts: Iterable[tuple[str, str]]) -> list[list[int]]:
    """Token ids of each (name, text), to be continued by the model: with the tokens that the tokenizer puts in front of
    a text, once, and without those that it puts behind. The name is for errors.

    UserError for a prompt without tokens, or with one that the model has no embedding for.
    """
    tokenizer = policy.tokenizer
    front = _front(tokenizer)
    encoded = []
    for name, text in prompts:
        ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)  # length is checked elsewhere
        if ids[: len(front)] != front:  # a chat template may already have added them
            ids = front + ids
        if not ids:
            raise UserError(f"{name} is empty")
        require_rows(policy, ids, name)
        encoded.append(ids)
    return encoded


def require_rows(policy: Policy, ids: list[int], name: str) -> None:
    """UserError when a token lies beyond the embedding table: tokens may have been added to a tokenizer alone."""
    rows = policy.vocabulary.table.shape[0]
    if max(ids) >= rows:
        token = next(i for i in ids if i >= rows)
        raise UserError(
            f"{name} has the token {policy.tokenizer.convert_ids_to_tokens(token)!r} (id {token}), but the model's "
            f"embedding table has {rows:,} rows, so it cannot be fed; take it out of the text, or use a model whose "
            "table was resized with its tokenizer"
        )


def owned_ids(tokenizer: PreTrainedTokenizerBase, rows: int) -> list[int]:
    """Ids of the vocabulary's rows that a token owns, ascending. Ids may have holes."""
    return sorted({i for i in tokenizer.get_vocab().values() if i < rows})


def _front(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that the tokenizer puts in front of every text: usually none, or its begin token."""
    whole, plain = tokenizer.encode("a"), tokenizer.encode("a", add_special_tokens=False)
    starts = range(len(whole) - len(plain) + 1)
    return whole[: next((start for start in starts if whole[start : start + len(plain)] == plain), 0)]
