"""Endings on the device: an automaton over tokens that recognises them, and the forced texts as token ids.

The rule is on text: thoughts end when their (shadow) text ends with the text of an ending. The automaton makes it one
table look-up per step and row, without text and without waiting for the device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from softtokens.endings import SPACES, Ending, Endings
from softtokens.models.tokens import owned_ids
from softtokens.types import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class StopTable:
    """The automaton of a tokenizer and some endings. An ending is its number; the number after the last is none.

    next_state: int16 [states, vocab]; it starts in state 0. ending: int64 [states], which ending the text has in this
    state. ending_of_token: int64 [vocab], which ending the token is by itself. ends_in_space: bool [vocab].
    """

    next_state: Tensor
    ending: Tensor
    ending_of_token: Tensor
    ends_in_space: Tensor

    def to(self, device: torch.device) -> StopTable:
        """The same on another device."""
        return StopTable(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def stop_table(tokenizer: PreTrainedTokenizerBase, vocab: int, endings: Endings) -> StopTable:
    """Build the automaton by running every token's text through the automaton of characters.

    Raises UserError for token ids beyond the vocabulary.
    """
    texts = token_texts(tokenizer, vocab)
    step, ending, codes_of = _character_automaton([way.core for way in endings.ways])
    longest = max((len(text) for text in texts), default=0)
    codes = np.zeros((vocab, max(longest, 1)), dtype=np.int16)
    lengths = np.array([len(text) for text in texts])
    for token, text in enumerate(texts):
        codes[token, : len(text)] = [codes_of.get(character, 0) for character in text]
    states = np.repeat(np.arange(len(step))[:, None], vocab, axis=1)
    for i in range(longest):
        states = np.where(i < lengths, step[states, codes[:, i]], states)
    return StopTable(
        torch.from_numpy(states.astype(np.int16)),
        torch.from_numpy(ending),
        _ending_of_token(endings.ways, vocab),
        torch.from_numpy(np.array([text.endswith(SPACES) for text in texts])),
    )


def _ending_of_token(ways: Sequence[Ending], vocab: int) -> Tensor:
    of_token = torch.full((vocab,), len(ways))
    for number, way in reversed(list(enumerate(ways))):
        for token in way.token_ids:
            if not 0 <= token < vocab:
                raise UserError(f"the ending {way.name} has the token id {token}; the model has 0 to {vocab - 1}")
            of_token[token] = number
    return of_token


def _character_automaton(cores: Sequence[str]) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """next state [states, classes of characters], ending [states], class of each character; class 0 is any other.

    A state is the longest beginning of a core that the text ends with (as in Aho and Corasick's automaton), and the
    ending that the text has: one that is complete stays so through white space.
    """
    none = len(cores)
    beginnings = {core[:length] for core in cores for length in range(len(core) + 1)} | {""}
    code_of = {character: i + 1 for i, character in enumerate(dict.fromkeys("".join(cores) + "".join(SPACES)))}

    def after(beginning: str, ending: int, character: str) -> tuple[str, int]:
        text = beginning + character
        reached = next(text[i:] for i in range(len(text) + 1) if text[i:] in beginnings)
        complete = next((i for i, core in enumerate(cores) if core and text.endswith(core)), none)
        if complete == none and character in SPACES:
            complete = ending
        return reached, complete

    start = ("", none)
    number, rows, waiting = {start: 0}, [], [start]
    for state in waiting:  # the loop appends to it
        row = [0] * (len(code_of) + 1)
        for character, code in code_of.items():
            reached = after(*state, character)
            if reached not in number:
                number[reached] = len(number)
                waiting.append(reached)
            row[code] = number[reached]
        rows.append(row)
    return np.array(rows), np.array([ending for _, ending in number]), code_of


def token_texts(tokenizer: PreTrainedTokenizerBase, vocab: int) -> list[str]:
    """The text that each token adds. Tokens are decoded after another token, because some tokenizers drop the space in
    front of the first; a token that holds part of a character gives the replacement character, which matches nothing.
    """
    anchor = tokenizer.encode("a", add_special_tokens=False)[-1]
    owned = owned_ids(tokenizer, vocab)
    prefix = len(decode_text(tokenizer, [anchor]))
    texts = [""] * vocab
    whole = tokenizer.batch_decode([[anchor, token] for token in owned], clean_up_tokenization_spaces=False)
    for token, text in zip(owned, whole, strict=True):
        texts[token] = text[prefix:]
    return texts


def decode_text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert isinstance(text, str), "one list of ids is one text"
    return text


def ending_by_text(text: str, endings: Endings) -> int | None:
    """The rule itself, on text: the number of the first ending it has. The automaton's twin in the tests."""
    bare = text.rstrip("".join(SPACES))
    return next((i for i, way in enumerate(endings.ways) if way.core and bare.endswith(way.core)), None)


def forced_ids(tokenizer: PreTrainedTokenizerBase, endings: Endings) -> list[tuple[list[int], list[int]]]:
    """Token ids of each forced text (`Endings.forced`), where the thoughts do not end in a space, and where they do;
    tokenized as a continuation."""
    before = [*(way.core or "so." for way in endings.ways), "so."]
    return [
        (
            continuation_ids(tokenizer, core, spaced(text, False)),
            continuation_ids(tokenizer, core + " ", spaced(text, True)),
        )
        for core, text in zip(before, endings.forced, strict=True)
    ]


def spaced(forced: str, ends_in_space: bool) -> str:
    """The forced text, separated from the thoughts by white space in one of the two."""
    return forced if ends_in_space or not forced or forced.startswith(SPACES) else " " + forced


def continuation_ids(tokenizer: PreTrainedTokenizerBase, before: str, text: str) -> list[int]:
    """Token ids of `text` where it follows `before`; falls back to `text` alone when a token would span the seam."""
    head = tokenizer.encode(before, add_special_tokens=False)
    whole = tokenizer.encode(before + text, add_special_tokens=False)
    if whole[: len(head)] == head:
        return whole[len(head) :]
    return tokenizer.encode(text, add_special_tokens=False)
