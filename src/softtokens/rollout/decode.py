"""Rollouts: prefill each prompt once, then feed thoughts, the forced text and the answer, one embedding at a time.

Every row goes THINKING -> FORCED -> ANSWERING -> DONE and emits one position per step of the loop.
"""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from softtokens.models.kv import SlotKV
from softtokens.models.policy import Policy
from softtokens.ops.random import Keys, Stream
from softtokens.ops.vocabulary import Vocabulary
from softtokens.rollout import stopping
from softtokens.rollout.record import Kind, Rollout
from softtokens.thoughts import Hard, Thought
from softtokens.types import StopReason, UserError

THINKING, FORCED, ANSWERING, DONE = range(4)
_KIND_OF_PHASE = torch.tensor([Kind.THOUGHT, Kind.FORCED, Kind.ANSWER, Kind.PAD], dtype=torch.int8)
_REASONS = (StopReason.PHRASE, StopReason.LIMIT, StopReason.EOS)
_ROW_MULTIPLE = 8  # batches shrink to a multiple of this, see `_leave`


@dataclasses.dataclass(frozen=True)
class Limits:
    """How long thoughts and answers may be, and how answers are drawn.

    answer_temperature: 0 takes the arg-max token.
    """

    max_thought_steps: int = 128
    max_answer_tokens: int = 32
    answer_temperature: float = 1.0

    def __post_init__(self):
        for name in ("max_thought_steps", "max_answer_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.answer_temperature < float("inf"):
            raise UserError(f"answer_temperature is {self.answer_temperature}; it must be 0 (greedy) or positive")


@torch.no_grad()
def sample_rollout(
    policy: Policy,
    thought: Thought,
    prompts: list[list[int]],
    prompt_of_row: list[int],
    keys: Keys,
    limits: Limits,
) -> Rollout:
    """Think and answer once per row.

    prompts: token ids, each run once and shared by the rows that name it in prompt_of_row. keys: names of each row's
    random numbers; a row's result does not depend on the other rows. Raises UserError when a prompt and the limits do
    not fit the model's context.
    """
    forced = _forced_texts(policy.tokenizer, policy.device)
    capacity = needed_positions(policy, prompts, limits)
    vocabulary = policy.vocabulary
    live = _start(policy, prompts, prompt_of_row, keys, capacity)
    tape = _Tape(live, thought)
    table = _stop_table(policy.tokenizer, vocabulary.head.shape[0], policy.device)
    eos = torch.tensor(sorted(policy.eos_ids), dtype=torch.int64, device=policy.device)
    view = max(map(len, prompts))
    while True:
        emitted = _emit(live, thought, vocabulary, limits, forced)
        tape.append(live, emitted)
        _advance(live, emitted.token, limits, table, forced, eos, tape)
        inputs = emitted.inputs
        if bool((live.phase == DONE).all()):
            return tape.rollout(policy.tokenizer, prompts, prompt_of_row, keys)
        live, inputs = _leave(live, inputs)
        view += 1
        live.hidden = policy.step(inputs, live.position, live.kv, view)
        live.position = live.position + 1


@dataclasses.dataclass
class _Live:
    """The rows still in the batch; the first axis of everything."""

    row: Tensor  # which row of the rollout this is
    keys: Keys
    hidden: Tensor  # last hidden state, from which the next emission is drawn
    position: Tensor  # where the next input goes
    kv: SlotKV
    phase: Tensor
    count: Tensor  # emissions so far in this phase
    stop_state: Tensor
    forced_text: Tensor  # which of the forced texts the row has


@dataclasses.dataclass(frozen=True)
class _Emission:
    token: Tensor
    inputs: Tensor | None  # None once it has been fed and need not be stored
    log_prob: Tensor
    support: Tensor | None


def _start(policy: Policy, prompts, prompt_of_row, keys: Keys, capacity: int) -> _Live:
    longest = max(map(len, prompts))
    hidden, kv = policy.prefill(prompts, longest)
    of_row = torch.tensor(prompt_of_row, device=policy.device)
    lengths = torch.tensor([len(p) for p in prompts], device=policy.device)[of_row]
    zeros = torch.zeros_like(of_row)
    return _Live(
        row=torch.arange(len(prompt_of_row), device=policy.device),
        keys=keys,
        hidden=hidden[of_row],
        position=lengths,
        kv=kv.take(of_row, capacity),
        phase=zeros + THINKING,
        count=zeros,
        stop_state=zeros,
        forced_text=zeros,
    )


def _emit(live: _Live, thought: Thought, vocabulary: Vocabulary, limits: Limits, forced: _ForcedTexts) -> _Emission:
    """One position per row: a thought, a forced token or an answer token, by phase."""
    rows, dim = live.hidden.shape
    token = torch.zeros_like(live.row)
    inputs = live.hidden.new_zeros((rows, dim), dtype=torch.float32)
    log_prob = inputs[:, 0].clone()
    support = None

    thinking = torch.nonzero(live.phase == THINKING)[:, 0]
    if len(thinking):
        keys = live.keys[thinking].at(live.count[thinking], Stream.THOUGHT)
        drawn = thought.at(live.hidden[thinking], vocabulary).draw(keys)
        token[thinking] = drawn.token
        inputs[thinking] = drawn.inputs.float()
        log_prob[thinking] = drawn.log_prob.float()
        if drawn.support is not None:
            support = drawn.support.new_zeros(rows, drawn.support.shape[1])
            support[thinking] = drawn.support

    forcing = torch.nonzero(live.phase == FORCED)[:, 0]
    if len(forcing):
        token[forcing] = forced.table[live.forced_text[forcing], live.count[forcing]]
        inputs[forcing] = vocabulary.embed(token[forcing]).float()

    answering = torch.nonzero(live.phase == ANSWERING)[:, 0]
    if len(answering):
        keys = live.keys[answering].at(live.count[answering], Stream.ANSWER)
        drawn = Hard(limits.answer_temperature).at(live.hidden[answering], vocabulary).draw(keys)
        token[answering] = drawn.token
        inputs[answering] = drawn.inputs.float()
        log_prob[answering] = drawn.log_prob.float()
    return _Emission(token, inputs, log_prob, support)


def _advance(
    live: _Live,
    token: Tensor,
    limits: Limits,
    table: stopping.StopTable,
    forced: _ForcedTexts,
    eos: Tensor,
    tape: _Tape,
) -> None:
    """Move rows whose phase ended with this emission to the next phase."""
    live.count = live.count + 1
    is_eos = torch.isin(token, eos)

    thinking = live.phase == THINKING
    live.stop_state = torch.where(thinking, table.next_state[live.stop_state, token].long(), live.stop_state)
    said = live.stop_state == table.complete
    thoughts_end = thinking & (said | is_eos | (live.count >= limits.max_thought_steps))
    reason = torch.where(said, 0, torch.where(is_eos, 2, 1))  # positions in _REASONS
    tape.reason[live.row[thoughts_end]] = reason[thoughts_end]
    text = forced.index(said, table.ends_in_space[token])
    live.forced_text = torch.where(thoughts_end, text, live.forced_text)

    forced_end = (live.phase == FORCED) & (live.count >= forced.length[live.forced_text])
    answer_end = (live.phase == ANSWERING) & (is_eos | (live.count >= limits.max_answer_tokens))
    ended = thoughts_end | forced_end | answer_end
    live.phase = live.phase + ended.long()
    live.count = torch.where(ended, 0, live.count)


def _leave(live: _Live, inputs: Tensor) -> tuple[_Live, Tensor]:
    """Drop finished rows, once enough have finished to pay for copying the cache.

    The number of rows stays a multiple of 8 where possible (some finished rows may stay): matrix products of such
    sizes give each row the same bits whatever the batch, which odd sizes and single rows do not.
    """
    alive = live.phase != DONE
    rows = len(alive)
    wanted = -(-int(alive.sum()) // _ROW_MULTIPLE) * _ROW_MULTIPLE
    if wanted > 0.75 * rows:
        return live, inputs
    order = torch.argsort((~alive).long(), stable=True)[:wanted]  # the living first, in their order
    kept = {
        name: getattr(live, name)[order]
        for name in ("row", "keys", "hidden", "position", "phase", "count", "stop_state", "forced_text")
    }
    return _Live(kv=live.kv.take(order), **kept), inputs[order]


class _Tape:
    """What was emitted, step by step, put together at the end."""

    def __init__(self, live: _Live, thought: Thought):
        self.rows = len(live.row)
        self.keeps_inputs = not thought.feeds_tokens
        self.reason = torch.zeros_like(live.row)
        self.columns: list[tuple[Tensor, Tensor, _Emission]] = []

    def append(self, live: _Live, emitted: _Emission) -> None:
        kind = _KIND_OF_PHASE.to(live.phase.device)[live.phase]
        if not (self.keeps_inputs and bool((kind == Kind.THOUGHT).any())):
            emitted = dataclasses.replace(emitted, inputs=None)  # embeddings of tokens need no memory
        self.columns.append((live.row, kind, emitted))

    def rollout(self, tokenizer, prompts, prompt_of_row, keys: Keys) -> Rollout:
        lengths = torch.tensor([len(prompts[p]) for p in prompt_of_row])
        device = self.reason.device
        seq = int(lengths.max()) + len(self.columns)
        ids = torch.zeros(self.rows, seq, dtype=torch.int64)
        kind = torch.zeros(self.rows, seq, dtype=torch.int8)
        log_prob = torch.zeros(self.rows, seq)
        for row, p in enumerate(prompt_of_row):
            ids[row, : len(prompts[p])] = torch.tensor(prompts[p])
            kind[row, : len(prompts[p])] = Kind.PROMPT
        ids, kind, log_prob, lengths = (t.to(device) for t in (ids, kind, log_prob, lengths))
        inputs, support = [], []
        for step, (row, column_kind, emitted) in enumerate(self.columns):
            at = lengths[row] + step
            emits = column_kind != Kind.PAD
            ids[row[emits], at[emits]] = emitted.token[emits]
            kind[row[emits], at[emits]] = column_kind[emits]
            log_prob[row[emits], at[emits]] = emitted.log_prob[emits]
            if emitted.inputs is not None:
                thinks = column_kind == Kind.THOUGHT
                inputs.append(_scattered(emitted.inputs, row, thinks, self.rows))
                if emitted.support is not None:
                    support.append(_scattered(emitted.support, row, thinks, self.rows))
        seq = int((kind != Kind.PAD).sum(-1).max())
        ids, kind, log_prob = ids[:, :seq], kind[:, :seq], log_prob[:, :seq]
        return Rollout(
            ids=ids,
            kind=kind,
            inputs=torch.stack(inputs, dim=1) if inputs else None,
            support=torch.stack(support, dim=1) if support else None,
            log_prob=log_prob,
            keys=keys,
            prompt_lengths=lengths,
            stop_reasons=[_REASONS[i] for i in self.reason.tolist()],
            thought_texts=_texts(tokenizer, ids, kind == Kind.THOUGHT),
            answer_texts=_texts(tokenizer, ids, (kind == Kind.FORCED) | (kind == Kind.ANSWER)),
        )


def _scattered(values: Tensor, row: Tensor, chosen: Tensor, rows: int) -> Tensor:
    out = values.new_zeros(rows, values.shape[1])
    out[row[chosen]] = values[chosen]
    return out


def _texts(tokenizer, ids: Tensor, chosen: Tensor) -> list[str]:
    rows = [row[mask].tolist() for row, mask in zip(ids.cpu(), chosen.cpu(), strict=True)]
    return tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False)


@dataclasses.dataclass(frozen=True)
class _ForcedTexts:
    """The four forced texts, numbered 2 * said + ends_in_space; table int64 [4, longest]."""

    ids: list[list[int]]
    table: Tensor
    length: Tensor

    @staticmethod
    def index(said: Tensor, space: Tensor) -> Tensor:
        return 2 * said.long() + space.long()


@functools.lru_cache(maxsize=4)
def _forced_texts(tokenizer, device) -> _ForcedTexts:
    by_case = stopping.forced_ids(tokenizer)
    ids = [by_case[said, space] for said in (False, True) for space in (False, True)]
    table = torch.zeros(4, max(map(len, ids)), dtype=torch.int64)
    for i, tokens in enumerate(ids):
        table[i, : len(tokens)] = torch.tensor(tokens)
    return _ForcedTexts(ids, table.to(device), torch.tensor([len(t) for t in ids], device=device))


@functools.lru_cache(maxsize=4)
def _stop_table(tokenizer, vocab: int, device) -> stopping.StopTable:
    table = stopping.stop_table(tokenizer, vocab)
    return stopping.StopTable(table.next_state.to(device), table.ends_in_space.to(device))


def needed_positions(policy: Policy, prompts: list[list[int]], limits: Limits) -> int:
    """How many positions the longest row may need. UserError when that is more than the model's context."""
    longest_forced = max(map(len, _forced_texts(policy.tokenizer, policy.device).ids))
    if not prompts or min(map(len, prompts)) == 0:
        raise UserError("a prompt is empty; every prompt needs at least one token")
    longest = max(map(len, prompts))
    needed = longest + limits.max_thought_steps + longest_forced + limits.max_answer_tokens
    if needed > policy.context_length:
        raise UserError(
            f"the longest prompt has {longest} tokens; with max_thought_steps {limits.max_thought_steps}, "
            f"{longest_forced} forced and max_answer_tokens {limits.max_answer_tokens} it needs {needed} positions, "
            f"but the model's context is {policy.context_length}. Lower the limits, or drop the long problems."
        )
    return needed
