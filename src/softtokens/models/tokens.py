"""Token ids of prompts, and the vocabulary rows that a tokenizer's tokens own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from softtokens.models.chat import special_texts
from softtokens.models.policy import Policy
from softtokens.types import Problem, Spans, UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prompt_ids(policy: Policy, prompts: Iterable[tuple[str, str]]) -> list[list[int]]:
    """Token ids of each (name, text), to be continued by the model: with the tokens that the tokenizer puts in front of
    a text, once, and without those that it puts behind. The name is for errors.

    UserError for a prompt without tokens, or with one that the model has no embedding for.
    """
    front = _front(policy.tokenizer)
    return [_checked(policy, _led_by(front, _encode(policy.tokenizer, text)), name) for name, text in prompts]


def problem_ids(policy: Policy, problems: Iterable[Problem]) -> list[list[int]]:
    """Token ids of each problem's prompt, as `prompt_ids` makes them. Special tokens that the data writes out are
    encoded as text. A chat template puts every token in front itself. UserError as from `prompt_ids`, and for a special
    token that the tokenizer cannot encode as text."""
    tokenizer = policy.tokenizer
    front, specials = _front(tokenizer), _pattern(tokenizer)
    encoded = []
    for problem in problems:
        name = f"the prompt of problem {problem.id}"
        assert problem.prompt or not problem.messages, f"{name} is not rendered yet"
        ids = _encode_apart(tokenizer, problem.prompt, _written_out(specials, problem), name)
        encoded.append(_checked(policy, ids if problem.messages else _led_by(front, ids), name))
    return encoded


def written_out(tokenizer: PreTrainedTokenizerBase, problems: Iterable[Problem]) -> list[list[str]]:
    """The special tokens that the data of each problem writes out, and that are encoded as text."""
    specials = _pattern(tokenizer)
    return [[problem.prompt[start:end] for start, end in _written_out(specials, problem)] for problem in problems]


def _pattern(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Any special token as it is written; nothing matches where there are none."""
    return re.compile("|".join(map(re.escape, special_texts(tokenizer))) or "(?!)")


def _written_out(specials: re.Pattern[str], problem: Problem) -> Spans:
    return tuple(match.span() for span in problem.literal for match in specials.finditer(problem.prompt, *span))


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False, verbose=False)  # too long ones are refused elsewhere


def _encode_apart(tokenizer: PreTrainedTokenizerBase, text: str, literal: Spans, name: str) -> list[int]:
    """The text, with special tokens in these spans encoded as the text they are."""
    ids, end = [], 0
    for start, stop in literal:
        special = text[start:stop]
        as_text = _encode_inside(tokenizer, special, split_special_tokens=True)
        if tokenizer.convert_tokens_to_ids(special) in as_text:
            raise UserError(
                f"{name} writes out {special!r}, which this tokenizer reads as a special token even as text; take it "
                "out of the data, or allow it with --special-tokens"
            )
        ids += (_encode_inside if end else _encode)(tokenizer, text[end:start]) + as_text
        end = stop
    return ids + (_encode_inside if end else _encode)(tokenizer, text[end:])


def _encode_inside(tokenizer: PreTrainedTokenizerBase, text: str, **options: bool) -> list[int]:
    """A part of a text that begins in its middle. After a line end, because some tokenizers put a space in front of the
    first word."""
    before = tokenizer.encode("\n", add_special_tokens=False)
    ids = tokenizer.encode("\n" + text, add_special_tokens=False, verbose=False, **options)
    if ids[: len(before)] == before:
        return ids[len(before) :]
    return tokenizer.encode(text, add_special_tokens=False, verbose=False, **options)


def _led_by(front: list[int], ids: list[int]) -> list[int]:
    return ids if ids[: len(front)] == front else front + ids  # they may be written out in the text


def _checked(policy: Policy, ids: list[int], name: str) -> list[int]:
    if not ids:
        raise UserError(f"{name} is empty")
    require_rows(policy, ids, name)
    return ids


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
