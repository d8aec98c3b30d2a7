"""Multiple choice by likelihood: did training on one thing cost what the model knew of others?

Hard mode: the choices are plain text after the prompt. Nothing is generated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from softtokens.models.policy import Policy
from softtokens.rollout.replay import token_log_prob
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
    """Likelihood of every choice of every item. UserError when an item does not fit the model's context."""
    texts = [(item, choice) for item in items for choice in item.choices]
    pairs = [_encoded(policy, item, choice) for item, choice in texts]
    total = np.empty(len(pairs))
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    for start in range(0, len(order), rows_per_batch):
        rows = order[start : start + rows_per_batch]
        total[rows] = _log_probs(policy, [pairs[i] for i in rows])
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


def _encoded(policy: Policy, item: ChoiceItem, choice: str) -> tuple[list[int], list[int]]:
    prompt = policy.tokenizer.encode(item.prompt)
    ids = continuation_ids(policy.tokenizer, item.prompt, choice)
    if len(prompt) + len(ids) > policy.context_length:
        raise UserError(
            f"multiple-choice item {item.id} has {len(prompt) + len(ids)} tokens, but the model's context is "
            f"{policy.context_length}; leave it out"
        )
    return prompt, ids


def _log_probs(policy: Policy, pairs: list[tuple[list[int], list[int]]]) -> list[float]:
    """Sum of log p over each continuation's tokens, in nats."""
    longest = max(len(prompt) + len(ids) for prompt, ids in pairs)
    grid = torch.zeros(len(pairs), longest, dtype=torch.int64)
    scored = torch.zeros(len(pairs), longest, dtype=torch.bool)
    for row, (prompt, ids) in enumerate(pairs):
        grid[row, : len(prompt) + len(ids)] = torch.tensor(prompt + ids)
        scored[row, len(prompt) : len(prompt) + len(ids)] = True
    grid, scored = grid.to(policy.device), scored.to(policy.device)
    vocabulary = policy.vocabulary
    hidden = policy.hidden_states(vocabulary.embed(grid))
    log_prob = token_log_prob(vocabulary, hidden[:, :-1][scored[:, 1:]], grid[scored], 1.0)
    row = torch.nonzero(scored)[:, 0]
    total = torch.zeros(len(pairs), dtype=torch.float64, device=policy.device)
    return total.index_add(0, row, log_prob.double()).tolist()
