"""How long a rollout may be and how its thoughts end, and what a model's tokenizer makes of that."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from softtokens.endings import PAPER, Endings
from softtokens.models.policy import Policy
from softtokens.rollout import stopping
from softtokens.types import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class Limits:
    """How long thoughts and answers may be, how thoughts end, and how answers are drawn.

    answer_temperature: 0 takes the arg-max token.
    """

    max_thought_steps: int = 128
    max_answer_tokens: int = 32
    answer_temperature: float = 1.0
    endings: Endings = PAPER

    def __post_init__(self) -> None:
        for name in ("max_thought_steps", "max_answer_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.answer_temperature < float("inf"):
            raise UserError(f"answer_temperature is {self.answer_temperature}; it must be 0 (greedy) or positive")


@dataclasses.dataclass(frozen=True)
class ForcedTexts:
    """Token ids of every forced text, numbered 2 * ending + ends_in_space; thoughts that end in none of the endings
    have the number after the last. table: int64 [texts, longest], length: int64 [texts]."""

    table: Tensor
    length: Tensor

    @staticmethod
    def index(ending: Tensor, ends_in_space: Tensor) -> Tensor:
        return 2 * ending + ends_in_space.long()

    @property
    def longest(self) -> int:
        return self.table.shape[1]


@functools.lru_cache(maxsize=4)
def forced_texts(tokenizer: PreTrainedTokenizerBase, device: torch.device, endings: Endings) -> ForcedTexts:
    ids = [tokens for both in stopping.forced_ids(tokenizer, endings) for tokens in both]
    table = torch.zeros(len(ids), max(1, *map(len, ids)), dtype=torch.int64)
    for i, tokens in enumerate(ids):
        table[i, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
    return ForcedTexts(table.to(device), torch.tensor([len(tokens) for tokens in ids], device=device))


@functools.lru_cache(maxsize=4)
def stop_table(
    tokenizer: PreTrainedTokenizerBase, vocab: int, device: torch.device, endings: Endings
) -> stopping.StopTable:
    return stopping.stop_table(tokenizer, vocab, endings).to(device)


def emitted_positions(policy: Policy, limits: Limits) -> int:
    """Positions after the prompt that the longest row may need."""
    longest_forced = forced_texts(policy.tokenizer, policy.device, limits.endings).longest
    return limits.max_thought_steps + longest_forced + limits.max_answer_tokens


def room_for_prompts(policy: Policy, limits: Limits) -> int:
    """Tokens that a prompt may have, so that thoughts, forced text and answer fit the model's context after it."""
    return policy.context_length - emitted_positions(policy, limits)


def needed_positions(policy: Policy, prompts: list[list[int]], limits: Limits) -> int:
    """How many positions the longest row may need. UserError when that is more than the model's context."""
    if not prompts or min(map(len, prompts)) == 0:
        raise UserError("a prompt is empty; every prompt needs at least one token")
    longest, room = max(map(len, prompts)), room_for_prompts(policy, limits)
    if longest > room:
        raise UserError(
            f"the longest prompt has {longest} tokens; with max_thought_steps {limits.max_thought_steps} and "
            f"max_answer_tokens {limits.max_answer_tokens} the model's context of {policy.context_length} has room for "
            f"{max(room, 0)}. Lower the limits, or drop the long prompts."
        )
    return longest + policy.context_length - room
