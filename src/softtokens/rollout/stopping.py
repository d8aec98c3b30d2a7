"""When the thoughts end, and the text that is forced between thoughts and answer.

The rule is on text: thoughts end when their (shadow) text ends with the stop phrase. White space at the end of the
phrase is optional, because most tokenizers glue the space to the next token: ` \\boxed` never leaves a text that ends
in "is: ". Whatever is missing of it is put at the start of the forced text.

The rule runs as an automaton over tokens: one table look-up per step and row, no text and no wait for the device.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from softtokens.models.tokens import owned_ids
from softtokens.types import StopReason

STOP_PHRASE = "The final answer is: "
BOX = "\\boxed{"
_SPACES = (" ", "\t", "\n")


@dataclasses.dataclass(frozen=True)
class StopTable:
    """The automaton of a tokenizer and a phrase.

    next_state: int16 [states, vocab]; state = how many characters of the phrase the text ends with, and the last state
    means: the phrase is complete. ends_in_space: bool [vocab].
    """

    next_state: Tensor
    ends_in_space: Tensor

    @property
    def complete(self) -> int:
        return self.next_state.shape[0] - 1


def stop_table(tokenizer, vocab: int, phrase: str = STOP_PHRASE) -> StopTable:
    """Build the automaton by running every token's text through the phrase's Knuth-Morris-Pratt automaton."""
    core = phrase.rstrip()
    if not core:
        raise ValueError(f"the stop phrase is {phrase!r}; it needs at least one character that is not a space")
    texts = token_texts(tokenizer, vocab)
    alphabet = {character: i + 1 for i, character in enumerate(dict.fromkeys(core + "".join(_SPACES)))}
    step = _character_automaton(core, alphabet)
    longest = max((len(text) for text in texts), default=0)
    codes = np.zeros((vocab, max(longest, 1)), dtype=np.int16)
    lengths = np.array([len(text) for text in texts])
    for token, text in enumerate(texts):
        codes[token, : len(text)] = [alphabet.get(character, 0) for character in text]
    states = np.repeat(np.arange(step.shape[0])[:, None], vocab, axis=1)
    for i in range(longest):
        states = np.where(i < lengths, step[states, codes[:, i]], states)
    ends_in_space = np.array([text.endswith(_SPACES) for text in texts])
    return StopTable(torch.from_numpy(states.astype(np.int16)), torch.from_numpy(ends_in_space))


def _character_automaton(core: str, alphabet: dict[str, int]) -> np.ndarray:
    """next state [len(core) + 1, classes]; class 0 is any character that the phrase does not contain.

    Being complete survives white space.
    """
    step = np.zeros((len(core) + 1, len(alphabet) + 1), dtype=np.int64)
    for state in range(len(core) + 1):
        for character, code in alphabet.items():
            if state == len(core) and character in _SPACES:
                step[state, code] = state
                continue
            text = core[:state] + character
            step[state, code] = next(n for n in range(len(text), -1, -1) if n <= len(core) and text.endswith(core[:n]))
    return step


def token_texts(tokenizer, vocab: int) -> list[str]:
    """What each token adds to a text. Decoded behind another token, because some tokenizers drop the space in front of
    the first; a token that holds part of a character gives the replacement character, which matches nothing."""
    anchor = tokenizer.encode("a", add_special_tokens=False)[-1]
    owned = owned_ids(tokenizer, vocab)
    prefix = len(decode_text(tokenizer, [anchor]))
    texts = [""] * vocab
    whole = tokenizer.batch_decode([[anchor, token] for token in owned], clean_up_tokenization_spaces=False)
    for token, text in zip(owned, whole, strict=True):
        texts[token] = text[prefix:]
    return texts


def decode_text(tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def stops_by_text(text: str, phrase: str = STOP_PHRASE) -> bool:
    """The rule itself; the automaton's twin in the tests."""
    return text.rstrip("".join(_SPACES)).endswith(phrase.rstrip())


def forced_text(reason: StopReason, ends_in_space: bool, phrase: str = STOP_PHRASE) -> str:
    """What follows the thoughts: the box, after the phrase itself where the thoughts did not say it."""
    missing_phrase = "" if reason is StopReason.PHRASE else phrase
    return ("" if ends_in_space else " ") + missing_phrase + BOX


def forced_ids(tokenizer, phrase: str = STOP_PHRASE) -> dict[tuple[bool, bool], list[int]]:
    """Token ids of the forced text by (phrase was said, thoughts end in a space), tokenized as a continuation."""
    ids = {}
    for with_phrase in (True, False):
        for space in (True, False):
            before = (phrase.rstrip() if with_phrase else "so.") + (" " if space else "")
            reason = StopReason.PHRASE if with_phrase else StopReason.LIMIT
            ids[with_phrase, space] = continuation_ids(tokenizer, before, forced_text(reason, space, phrase))
    return ids


def continuation_ids(tokenizer, before: str, text: str) -> list[int]:
    """Token ids of `text` where it follows `before`; falls back to `text` alone when a token would span the seam."""
    head = tokenizer.encode(before, add_special_tokens=False)
    whole = tokenizer.encode(before + text, add_special_tokens=False)
    if whole[: len(head)] == head:
        return whole[len(head) :]
    return tokenizer.encode(text, add_special_tokens=False)
