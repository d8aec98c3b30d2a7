"""Score stored rollouts again: one teacher-forced forward pass, with gradient.

The thoughts that were fed are data. Gradients flow through the log-probabilities of each step and, as in any language
model, through the embeddings of tokens; not through the vectors that were fed.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from softtokens.models.policy import Policy
from softtokens.ops.mixture import tempered_log_softmax
from softtokens.ops.random import Stream
from softtokens.ops.vocabulary import Vocabulary
from softtokens.rollout.record import Rollout
from softtokens.thoughts import Draw, Thought

DEFAULT_CHUNK_ELEMENTS = 1 << 24  # logits in memory at once: 64 MB in float32


@dataclasses.dataclass(frozen=True)
class Replay:
    """Log-probabilities in nats, one per step, with gradient; and what was seen on the way, without.

    thought_log_prob, mismatch, entropy, max_weight, effective_support: [rows, steps], 0 beyond a row's thoughts.
    answer_log_prob: [rows, answer], 0 beyond a row's answer. The masks say which entries are steps.
    """

    thought_log_prob: Tensor
    answer_log_prob: Tensor
    is_thought_step: Tensor
    is_answer_step: Tensor
    mismatch: Tensor
    entropy: Tensor
    max_weight: Tensor
    effective_support: Tensor


def replay(
    policy: Policy,
    thought: Thought,
    rollout: Rollout,
    *,
    answer_temperature: float = 1.0,
    chunk_elements: int = DEFAULT_CHUNK_ELEMENTS,
) -> Replay:
    """Log-probabilities of every thought and answer step under the policy's parameters of now.

    Peak memory: the body's activations for [rows, seq], plus `chunk_elements` logits; the backward pass computes the
    logits again, chunk by chunk.
    """
    vocabulary = policy.vocabulary
    hidden = policy.hidden_states(_inputs(vocabulary, rollout))
    is_thought, is_answer = rollout.is_thought, rollout.is_answer
    chunk_rows = max(1, chunk_elements // vocabulary.head.shape[0])

    drawn = _stored_draws(rollout)
    thoughts = _in_chunks(
        lambda h, rows: _score_thoughts(thought, vocabulary, h, drawn[rows]), _before(hidden, is_thought), chunk_rows, 5
    )
    tokens = rollout.ids[is_answer]
    answers = _in_chunks(
        lambda h, rows: (token_log_prob(vocabulary, h, tokens[rows], answer_temperature),),
        _before(hidden, is_answer),
        chunk_rows,
        1,
    )
    thought_steps, answer_steps = _leading(is_thought), _leading(is_answer)
    log_prob, *seen = (_unflatten(values, thought_steps) for values in thoughts)
    return Replay(log_prob, _unflatten(answers[0], answer_steps), thought_steps, answer_steps, *seen)


@torch.no_grad()
def hidden_before_thoughts(policy: Policy, rollout: Rollout) -> Tensor:
    """The hidden states that each thought step was drawn from, row by row: [thought steps of all rows, dim]."""
    return _before(policy.hidden_states(_inputs(policy.vocabulary, rollout)), rollout.is_thought)


def _inputs(vocabulary: Vocabulary, rollout: Rollout) -> Tensor:
    """What the model was fed, [rows, seq, dim]: embeddings of tokens, and the stored vectors of continuous thoughts."""
    inputs = vocabulary.embed(rollout.ids)
    if rollout.inputs is None:
        return inputs
    stored = torch.zeros_like(inputs, requires_grad=False)
    stored[rollout.is_thought] = rollout.inputs[_leading(rollout.is_thought)].to(inputs.dtype)
    return torch.where(rollout.is_thought[..., None], stored, inputs)


def _stored_draws(rollout: Rollout) -> Draw:
    """The thought steps of all rows, one after the other."""
    steps = _leading(rollout.is_thought)
    row, step = torch.nonzero(steps, as_tuple=True)
    inputs = rollout.inputs
    return Draw(
        token=rollout.ids[rollout.is_thought],
        inputs=row.new_zeros(len(row), 0) if inputs is None else inputs[steps],
        log_prob=rollout.log_prob[rollout.is_thought],
        keys=rollout.keys[row].at(step, Stream.THOUGHT),
        support=None if rollout.support is None else rollout.support[steps],
    )


def _score_thoughts(thought: Thought, vocabulary: Vocabulary, hidden: Tensor, drawn: Draw) -> tuple[Tensor, ...]:
    distribution = thought.at(hidden, vocabulary)
    soft = distribution.concentration
    return (
        distribution.replay(drawn),
        distribution.mismatch(drawn),
        soft.entropy,
        soft.max_weight,
        soft.effective_support,
    )


def token_log_prob(vocabulary: Vocabulary, hidden: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """log p(token) at a temperature, [rows]. At temperature 0 (greedy answers) temperature 1 is reported: a certain
    token has nothing to say."""
    logits = vocabulary.logits(hidden)
    return tempered_log_softmax(logits, temperature or 1.0).gather(-1, tokens[:, None])[:, 0]


def _in_chunks(function, hidden: Tensor, chunk_rows: int, outputs: int) -> tuple[Tensor, ...]:
    """Apply `function(hidden, rows)` to slices of rows without keeping what is inside it for the backward pass."""
    if hidden.shape[0] == 0:
        return tuple(hidden.new_zeros(0, dtype=torch.float32) for _ in range(outputs))
    pieces = []
    for start in range(0, hidden.shape[0], chunk_rows):
        rows = slice(start, start + chunk_rows)
        pieces.append(checkpoint(function, hidden[rows], rows, use_reentrant=False, preserve_rng_state=False))
    return tuple(torch.cat(column) for column in zip(*pieces, strict=True))


def _before(hidden: Tensor, chosen: Tensor) -> Tensor:
    """Hidden states of the positions just before the chosen ones, [chosen, dim]: they predict them."""
    return hidden[:, :-1][chosen[:, 1:]]


def _leading(chosen: Tensor) -> Tensor:
    """bool [rows, most]: as many leading True per row as positions are chosen in it."""
    counts = chosen.sum(-1)
    return torch.arange(int(counts.max()), device=chosen.device) < counts[:, None]


def _unflatten(values: Tensor, where: Tensor) -> Tensor:
    """Put flat values back in rows, 0 elsewhere; differentiable."""
    return torch.zeros(where.shape, dtype=values.dtype, device=values.device).masked_scatter(where, values)
