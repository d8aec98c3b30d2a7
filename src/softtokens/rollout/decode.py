"""Rollouts: prefill each prompt once, then feed thoughts, the forced text and the answer, one embedding at a time.

`machine` defines one step. This module fills the batch, refills it while rollouts wait, and shrinks it at the end.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from softtokens.models.kv import SlotKV
from softtokens.models.policy import Policy
from softtokens.models.prefix import PromptStates
from softtokens.ops.denormals import flushing_denormals
from softtokens.ops.random import Keys, seed_words
from softtokens.rollout.decoder import Buffers, Decoder
from softtokens.rollout.limits import Limits, forced_texts, needed_positions, stop_table
from softtokens.rollout.machine import BROKEN, DONE, THINKING, Machine, Slots, Tape
from softtokens.rollout.record import Kind, Rollout
from softtokens.thoughts import Thought

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SLOT_MULTIPLE = 8  # batches shrink to a multiple of this, see `_Batch.shrink`
_LEAST_FILLED = 0.75  # the shortest prompt of a group that runs together, as a share of the longest


@torch.no_grad()
def sample_rollout(
    policy: Policy,
    thought: Thought,
    prompts: list[list[int]],
    prompt_of_row: list[int],
    keys: Keys,
    limits: Limits,
    *,
    slots: int | None = None,
    decoder: Decoder | None = None,
) -> Rollout:
    """Think and answer once per row, all rows at once or `slots` at a time.

    prompts: token ids, each run once and shared by the rows that name it in prompt_of_row. keys: names of each row's
    random numbers; a row's result does not depend on the other rows. decoder: how the policy's steps run; by default
    one operation at a time. Raises UserError when a prompt and the limits do not fit the model's context,
    FloatingPointError when the model's logits are not finite.
    """
    parts = list(stream_rollouts(policy, thought, prompts, prompt_of_row, keys, limits, slots=slots, decoder=decoder))
    if len(parts) == 1:
        return parts[0][1]
    rows = torch.cat([rows for rows, _ in parts])
    return Rollout.concatenate([rollout for _, rollout in parts]).take(rows.argsort())


@torch.no_grad()
def stream_rollouts(
    policy: Policy,
    thought: Thought,
    prompts: list[list[int]],
    prompt_of_row: list[int],
    keys: Keys,
    limits: Limits,
    *,
    slots: int | None = None,
    for_replay: bool = True,
    decoder: Decoder | None = None,
) -> Iterator[tuple[Int[Tensor, "finished"], Rollout]]:
    """Like `sample_rollout` for more rows than fit in memory: at most `slots` at a time, new rows taking the places of
    finished ones. Yields (rows, their rollout) as they finish, each row once. Fewer slots than 8 give results that
    differ by rounding.

    for_replay: keep what the thoughts store for a replay, which a grader does not need.
    """
    decoder = decoder or Decoder(policy)
    assert decoder.policy is policy
    waiting = collections.deque(range(len(prompt_of_row)))
    most = -(-len(waiting) // _SLOT_MULTIPLE) * _SLOT_MULTIPLE
    slots = most if slots is None else min(slots, most)
    slots -= slots % _SLOT_MULTIPLE if slots > _SLOT_MULTIPLE else 0
    batch = _Batch(decoder, thought, prompts, prompt_of_row, keys, limits, slots, for_replay)
    while waiting or batch.alive:
        if waiting and batch.wants_more and batch.finished:
            yield batch.take_finished()
        with flushing_denormals():
            if waiting and batch.wants_more:
                batch.admit(waiting)
                continue
            if not waiting:
                batch.shrink()
            batch.step()
    yield batch.take_finished()


def similar_lengths(lengths: Mapping[int, int]) -> list[list[int]]:
    """Groups of prompts (by number) that run together, longest first, so that little of the work is padding. Groups
    have at least 8 prompts where possible, because smaller batches give other bits."""
    groups: list[list[int]] = []
    prompts = sorted(lengths, key=lambda prompt: -lengths[prompt])
    for i, prompt in enumerate(prompts):
        full = len(groups[-1]) >= _SLOT_MULTIPLE and len(prompts) - i >= _SLOT_MULTIPLE if groups else False
        if not groups or (full and lengths[prompt] < _LEAST_FILLED * lengths[groups[-1][0]]):
            groups.append([])
        groups[-1].append(prompt)
    return groups


@dataclasses.dataclass
class _HostSlot:
    """The host's view of a slot after the last step. seat: where its row writes on the tape, which is the slot's
    number when the row was admitted. end: number of positions written."""

    seat: int
    row: int | None = None
    end: int = 0
    phase: int = DONE


class _Batch:
    """The slots, their caches and the tape, and the host's view of them.

    The tape has one seat more than there are slots: a scratch row that padded rows write into.
    """

    def __init__(
        self,
        decoder: Decoder,
        thought: Thought,
        prompts: list[list[int]],
        prompt_of_row: list[int],
        keys: Keys,
        limits: Limits,
        slots: int,
        for_replay: bool,
    ):
        self.decoder, self.policy = decoder, (policy := decoder.policy)
        self.prompts, self.prompt_of_row, self.keys = prompts, prompt_of_row, keys
        device, vocabulary = policy.device, policy.vocabulary.for_repeated_use()
        machine = Machine(
            thought=thought,
            vocabulary=vocabulary,
            limits=limits,
            forced=forced_texts(policy.tokenizer, device, limits.endings),
            stop=stop_table(policy.tokenizer, vocabulary.head.shape[0], device, limits.endings),
            eos=torch.tensor(sorted(policy.eos_ids), dtype=torch.int64, device=device),
            seed=seed_words(keys.seed, device),
        )
        # Views are never cut short by the end of the cache, as attention over an odd number of positions gives a row
        # other bits, and never all of it, which a compiled step would be compiled for once more.
        positions = policy.view(needed_positions(policy, prompts, limits)) + 1

        def make() -> Buffers:
            tape = Tape.empty(slots, machine, for_replay=for_replay)
            return machine, Slots.empty(slots, vocabulary, seat=slots), tape, SlotKV(slots, positions)

        buffers, self.recorder = decoder.buffers((slots, for_replay, thought, limits, keys.seed), positions, make)
        self.machine, self.slots, self.tape, self.kv = buffers
        self.slots.phase.fill_(DONE)
        self.slots.seat.fill_(slots)
        self.host = [_HostSlot(seat) for seat in range(slots)]
        self.finished: list[tuple[int, int]] = []  # (row, seat) of those still on the tape
        self.to_admit = collections.Counter(prompt_of_row)  # rows of each prompt
        self.known: dict[int, PromptStates] = {}  # of prompts that ran and have rows to be admitted

    @property
    def alive(self) -> int:
        return sum(slot.phase < DONE for slot in self.host)

    @property
    def wants_more(self) -> bool:
        """Whether enough slots are free to be worth a prefill."""
        return len(self.host) - self.alive >= max(1, len(self.host) // 8)

    def admit(self, waiting: collections.deque[int]) -> None:
        """Move waiting rows into the free slots, after running those of their prompts that have not run yet. Each
        row emits its first position."""
        vacant = [i for i, slot in enumerate(self.host) if slot.phase >= DONE][: len(waiting)]
        rows = [waiting.popleft() for _ in vacant]
        prompt_of_slot = [self.prompt_of_row[row] for row in rows]
        parts = self._run_once(prompt_of_slot)
        distinct = [prompt for prompts, _ in parts for prompt in prompts]
        hidden = torch.cat([states.hidden for _, states in parts])
        # a multiple of 8 here too (see `shrink`): some rows twice, the second time into the forgotten seat
        padded = rows + rows[:1] * (-len(rows) % _SLOT_MULTIPLE if len(self.host) >= _SLOT_MULTIPLE else 0)
        device = hidden.device
        of_row = torch.tensor([distinct.index(self.prompt_of_row[row]) for row in padded], device=device)
        row = torch.tensor(padded, device=device)
        fresh = Slots.empty(len(padded), self.machine.vocabulary, seat=len(self.host))
        fresh.phase.fill_(THINKING)
        fresh.seat[: len(rows)] = torch.tensor(vacant, device=device)
        fresh.problem.copy_(self.keys.problem[row])
        fresh.rollout.copy_(self.keys.rollout[row])
        fresh.position.copy_(torch.cat([states.lengths for _, states in parts])[of_row])
        mixes, draws = self.machine.wants({THINKING})
        self.decoder.emit(self.machine, hidden[of_row], fresh, self.tape, mixes, draws)

        admitted = fresh.first(len(rows))
        self.slots.put(admitted.seat, admitted)
        for prompts, states in parts:
            slots_of_part = [i for i, prompt in enumerate(prompt_of_slot) if prompt in prompts]
            index = torch.tensor([prompts.index(prompt_of_slot[i]) for i in slots_of_part], device=device)
            self.kv.fill(admitted.seat[slots_of_part], states, index)
        for i, row in zip(vacant, rows, strict=True):
            self.host[i] = _HostSlot(seat=i, row=row, end=len(self.prompts[self.prompt_of_row[row]]))
        self._look(vacant, admitted.phase.tolist())

    def _run_once(self, prompts: list[int]) -> list[tuple[list[int], PromptStates]]:
        """States of the prompts of the rows that are admitted now, in parts. The states of a prompt are kept while
        more of its rows wait."""
        admitted = collections.Counter(prompts)
        parts = [([prompt], self.known[prompt]) for prompt in admitted if prompt in self.known]
        self.to_admit -= admitted
        lengths = {prompt: len(self.prompts[prompt]) for prompt in admitted if prompt not in self.known}
        for group in similar_lengths(lengths):
            states = self.policy.prompt_states([self.prompts[prompt] for prompt in group])
            parts.append((group, states))
            for i, prompt in enumerate(group):
                if self.to_admit[prompt]:
                    self.known[prompt] = states.only(i, lengths[prompt])
        for prompt in admitted:
            if not self.to_admit[prompt]:
                self.known.pop(prompt, None)
        return parts

    def step(self) -> None:
        """Feed what was emitted last, and emit the next position."""
        mixes, draws = self.machine.wants({slot.phase for slot in self.host})
        view = self.policy.view(max(slot.end for slot in self.host) + 1)
        if self.recorder is None:
            self._compute(view, mixes, draws)
        else:
            kind = (view, mixes, draws)
            self.recorder.run(kind, lambda: self._compute(*kind))
        for slot in self.host:
            slot.end += slot.phase < DONE
        self._look(range(len(self.host)), self.slots.phase.tolist())

    def _compute(self, view: int, mixes: bool, draws: bool) -> None:
        """The device's part of a step. It never waits for the device."""
        s = self.slots
        hidden = self.decoder.step(s.inputs, s.position, self.kv, view)
        s.position.add_((s.phase < DONE).long())
        self.decoder.emit(self.machine, hidden, s, self.tape, mixes, draws)

    def _look(self, slots: Sequence[int], phases: list[int]) -> None:
        """Update the host's view from the phases that the device reports."""
        for slot, phase in zip((self.host[i] for i in slots), phases, strict=True):
            if phase == BROKEN:
                self._refuse(slot)
            if phase == DONE and slot.row is not None:
                self.finished.append((slot.row, slot.seat))
                slot.row = None
            slot.phase = phase

    def _refuse(self, slot: _HostSlot) -> None:
        row = slot.row
        assert row is not None, "an empty slot is never broken"
        prompt = self.prompts[self.prompt_of_row[row]]
        raise FloatingPointError(
            f"the model's logits are not finite for problem {int(self.keys.problem[row])}, rollout "
            f"{int(self.keys.rollout[row])}, at step {slot.end - len(prompt) + 1} after the prompt; "
            "are its weights damaged, or its learning rate too high?"
        )

    def shrink(self) -> None:
        """Drop finished slots from the following steps: active slots move into the holes in front.

        The number of slots stays a multiple of 8, so a few finished slots may remain. Matrix products of such sizes
        give each row the same bits in any batch; odd sizes and single rows do not.
        """
        wanted = -(-self.alive // _SLOT_MULTIPLE) * _SLOT_MULTIPLE
        if wanted >= len(self.host) or self.recorder is not None:
            return  # recorded steps have their size, and a GPU reads the same weights for any number of slots
        movers = [i for i in range(wanted, len(self.host)) if self.host[i].phase < DONE]
        holes = [i for i in range(wanted) if self.host[i].phase >= DONE][: len(movers)]
        if movers:
            to, source = (torch.tensor(slots, device=self.slots.phase.device) for slots in (holes, movers))
            self.slots.move(to, source)
            self.kv.move(to, source)
            for hole, mover in zip(holes, movers, strict=True):
                self.host[hole] = self.host[mover]
        self.slots = self.slots.first(wanted)
        del self.host[wanted:]

    def take_finished(self) -> tuple[Int[Tensor, "finished"], Rollout]:
        """The finished rows, in order. Their seats may be reused afterwards."""
        rows, seats = (list(column) for column in zip(*sorted(self.finished), strict=True))
        self.finished = []
        tape = self.tape.at(torch.tensor(seats, device=self.policy.device))
        prompts = [self.prompts[self.prompt_of_row[row]] for row in rows]
        return torch.tensor(rows), _rollout(tape, self.machine, self.policy.tokenizer, prompts, self.keys[rows])


def _rollout(
    tape: Tape, machine: Machine, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], keys: Keys
) -> Rollout:
    """Combine the prompts and the content of the tape into a rollout."""
    device = tape.ids.device
    prompt_lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(prompt) for prompt in prompts], batch_first=True).to(device)
    parts = (prompt_lengths, tape.thoughts, machine.forced.length[tape.forced_text], tape.answers)
    ends = torch.stack(parts).cumsum(0)
    position = torch.arange(int(ends[-1].max()), device=device).expand(len(prompts), -1)
    kind = torch.full_like(position, Kind.PAD)
    for part, end in zip((Kind.ANSWER, Kind.FORCED, Kind.THOUGHT, Kind.PROMPT), ends.flip(0), strict=True):
        kind = torch.where(position < end[:, None], part, kind)
    emission = (position - prompt_lengths[:, None]).clamp(0, tape.ids.shape[1] - 1)
    in_prompt, is_pad = kind == Kind.PROMPT, kind == Kind.PAD
    ids = torch.where(
        in_prompt, padded.gather(1, position.clamp(max=padded.shape[1] - 1)), tape.ids.gather(1, emission)
    )
    ids = torch.where(is_pad, 0, ids)
    log_prob = torch.where(in_prompt | is_pad, 0, tape.log_prob.gather(1, emission))
    steps = int(tape.thoughts.max())
    thinks = (torch.arange(steps, device=device) < tape.thoughts[:, None])[..., None]
    return Rollout(
        ids=ids,
        kind=kind.to(torch.int8),
        stored={name: torch.where(thinks, x[:, :steps], 0) for name, x in tape.stored.items()},
        log_prob=log_prob,
        keys=keys,
        prompt_lengths=prompt_lengths,
        stop_reasons=[machine.limits.endings.reasons[i] for i in tape.reason.tolist()],
        thought_texts=_texts(tokenizer, ids, kind == Kind.THOUGHT),
        answer_texts=_texts(tokenizer, ids, (kind == Kind.FORCED) | (kind == Kind.ANSWER)),
    )


def _texts(
    tokenizer: PreTrainedTokenizerBase, ids: Int[Tensor, "rows seq"], chosen: Bool[Tensor, "rows seq"]
) -> list[str]:
    rows = [row[mask].tolist() for row, mask in zip(ids.cpu(), chosen.cpu(), strict=True)]
    return tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False)
