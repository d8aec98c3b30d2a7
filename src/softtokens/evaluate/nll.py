"""Multiple choice by likelihood: did training on one task cost knowledge of others?

Hard mode: the choices are plain text after the prompt. Nothing is generated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from softtokens.models.policy import Policy
from softtokens.models.tokens import prompt_ids, require_rows
from softtokens.ops import streamed
from softtokens.rollout.stopping import continuation_ids
from softtokens.types import ChoiceItem, UserError


@dataclasses.dataclass(frozen=True)
class ChoiceScores:
    """Per item, as arrays.

    correct: the right choice has the largest log-probability. correct_normalized: after division by its number of
    characters, not counting the space before it (lm-eval's acc_norm). nll_per_token: nats per token of the right
    choice.
    """

    correct: np.ndarray
    correct_normalized: np.ndarray
    nll_per_token: np.ndarray


@torch.no_grad()
def score_choices(policy: Policy, items: Sequence[ChoiceItem], *, rows_per_batch: int = 64) -> ChoiceScores:
    """Likelihood of every choice of every item. UserError as from `encoded_choices`."""
    pairs = encoded_choices(policy, items)
    total = np.array([log_prob for log_prob, _ in continuation_log_probs(policy, pairs, rows_per_batch=rows_per_batch)])
    correct, normalized, nll = [], [], []
    row = 0
    for item in items:
        scores = total[row : row + len(item.choices)]
        per_character = scores / [len(choice.lstrip()) for choice in item.choices]
        correct.append(scores.argmax() == item.answer)
        normalized.append(per_character.argmax() == item.answer)
        nll.append(-scores[item.answer] / len(pairs[row + item.answer][1]))
        row += len(item.choices)
    return ChoiceScores(np.array(correct), np.array(normalized), np.array(nll))


def encoded_choices(policy: Policy, items: Sequence[ChoiceItem]) -> list[tuple[list[int], list[int]]]:
    """Prompt and choice in token ids, for every choice of every item. UserError for an item that does not fit the
    model's context, or cannot be fed."""
    return [_encoded(policy, item, choice) for item in items for choice in item.choices]


def _encoded(policy: Policy, item: ChoiceItem, choice: str) -> tuple[list[int], list[int]]:
    name = f"multiple-choice item {item.id}"
    (prompt,) = prompt_ids(policy, [(name, item.prompt)])
    ids = continuation_ids(policy.tokenizer, item.prompt, choice)
    require_rows(policy, ids, name)
    if len(prompt) + len(ids) > policy.context_length:
        raise UserError(
            f"{name} has {len(prompt) + len(ids)} tokens, but the model's context is {policy.context_length}; remove it"
        )
    return prompt, ids


@torch.no_grad()
def continuation_log_probs(
    policy: Policy, pairs: Sequence[tuple[list[int], list[int]]], *, rows_per_batch: int = 64
) -> list[tuple[float, bool]]:
    """For each (prompt, continuation) in token ids: the sum of log p over the continuation's tokens in nats, and
    whether each of them is the likeliest. Pairs of similar length share a batch."""
    results: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    for start in range(0, len(order), rows_per_batch):
        rows = order[start : start + rows_per_batch]
        for row, result in zip(rows, _log_probs(policy, [pairs[i] for i in rows]), strict=True):
            results[row] = result
    return results


def _log_probs(policy: Policy, pairs: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
    longest = max(len(prompt) + len(ids) for prompt, ids in pairs)
    grid = torch.zeros(len(pairs), longest, dtype=torch.int64)
    scored = torch.zeros(len(pairs), longest, dtype=torch.bool)
    for row, (prompt, ids) in enumerate(pairs):
        grid[row, : len(prompt) + len(ids)] = torch.tensor(prompt + ids)
        scored[row, len(prompt) : len(prompt) + len(ids)] = True
    grid, scored = grid.to(policy.device), scored.to(policy.device)
    vocabulary = policy.vocabulary
    hidden = policy.hidden_states(vocabulary.embed(grid))[:, :-1][scored[:, 1:]]
    tokens, row = grid[scored], torch.nonzero(scored)[:, 0]
    total = torch.zeros(len(pairs), dtype=torch.float64, device=policy.device)
    missed = torch.zeros(len(pairs), dtype=torch.int64, device=policy.device)
    chunk = streamed.default_chunk_rows(vocabulary)
    for start in range(0, len(tokens), chunk):
        part = slice(start, start + chunk)
        log_p = vocabulary.logits(hidden[part]).log_softmax(dim=-1)
        total.index_add_(0, row[part], log_p.gather(-1, tokens[part, None])[:, 0].double())
        missed.index_add_(0, row[part], (log_p.argmax(dim=-1) != tokens[part]).long())
    return list(zip(total.tolist(), (missed == 0).tolist(), strict=True))
