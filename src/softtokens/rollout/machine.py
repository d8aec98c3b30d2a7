"""One step of decoding as a state machine on the device.

A slot goes THINKING -> FORCED -> ANSWERING -> DONE and emits one position per step: a thought, a token of the forced
text or an answer token. All tensors keep their shapes and nothing here waits for the device, so a step can be compiled,
or recorded and replayed as a graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Float32, Int, Shaped
from torch import Tensor

from softtokens.ops.mixture import draw_tokens
from softtokens.ops.random import SeedWords, StepKeys, Stream
from softtokens.ops.vocabulary import Vocabulary
from softtokens.rollout.limits import ForcedTexts, Limits
from softtokens.rollout.stopping import StopTable
from softtokens.thoughts import Thought
from softtokens.thoughts.base import Draw

THINKING, FORCED, ANSWERING, DONE, BROKEN = range(5)  # BROKEN: the logits were not numbers


@dataclasses.dataclass(frozen=True)
class Slots:
    """The rows of the batch. Every tensor is changed in place."""

    seat: Int[Tensor, "slots"]  # where on the tape the slot writes
    problem: Int[Tensor, "slots"]  # with `rollout`: names of the random numbers, see ops.random.Keys
    rollout: Int[Tensor, "slots"]
    position: Int[Tensor, "slots"]  # where the next input goes
    phase: Int[Tensor, "slots"]
    count: Int[Tensor, "slots"]  # emissions so far in this phase
    emitted: Int[Tensor, "slots"]  # emissions so far
    stop_state: Int[Tensor, "slots"]
    forced_text: Int[Tensor, "slots"]  # which of the forced texts the slot has
    inputs: Float32[Tensor, "slots dim"]  # what is fed next

    @staticmethod
    def empty(slots: int, vocabulary: Vocabulary, *, seat: int) -> Slots:
        """Finished slots that write into the given seat."""
        device = vocabulary.table.device
        names = [field.name for field in dataclasses.fields(Slots) if field.name != "inputs"]
        numbers = {name: torch.zeros(slots, dtype=torch.int64, device=device) for name in names}
        numbers["phase"] += DONE
        numbers["seat"] += seat
        return Slots(**numbers, inputs=torch.zeros(slots, vocabulary.table.shape[1], device=device))

    def first(self, slots: int) -> Slots:
        """A copy of the leading slots."""
        return Slots(**{name: tensor[:slots].clone() for name, tensor in vars(self).items()})

    def put(self, to: Int[Tensor, "some"], others: Slots) -> None:
        for name, tensor in vars(self).items():
            tensor[to] = getattr(others, name)

    def move(self, to: Int[Tensor, "some"], source: Int[Tensor, "some"]) -> None:
        for tensor in vars(self).values():
            tensor[to] = tensor[source]


@dataclasses.dataclass
class Tape:
    """What was emitted, one seat per rollout. The last column and the last step are scratch space."""

    ids: Int[Tensor, "seats columns"]  # a column per emission
    log_prob: Float32[Tensor, "seats columns"]
    stored: dict[str, Shaped[Tensor, "seats steps _"]]  # by name, see `Thought.stores`; empty: nothing is replayed
    thoughts: Int[Tensor, "seats"]  # how many
    answers: Int[Tensor, "seats"]
    forced_text: Int[Tensor, "seats"]
    reason: Int[Tensor, "seats"]  # position in `Endings.reasons`

    @staticmethod
    def empty(seats: int, machine: Machine, *, for_replay: bool) -> Tape:
        """A tape with one seat more, the last, as scratch space. for_replay: keep what the thought stores."""
        thoughts, dim = machine.limits.max_thought_steps, machine.vocabulary.table.shape[1]
        steps = thoughts + machine.forced.longest + machine.limits.max_answer_tokens
        numbers = torch.zeros(seats + 1, dtype=torch.int64, device=machine.vocabulary.table.device)
        stores = machine.thought.stores(dim) if for_replay else {}
        return Tape(
            ids=numbers.new_zeros(seats + 1, steps + 1),
            log_prob=numbers.new_zeros(seats + 1, steps + 1, dtype=torch.float32),
            stored={
                name: numbers.new_zeros(seats + 1, thoughts + 1, size, dtype=dtype)
                for name, (size, dtype) in stores.items()
            },
            thoughts=numbers.clone(),
            answers=numbers.clone(),
            forced_text=numbers.clone(),
            reason=numbers.clone(),
        )

    def at(self, seats: Int[Tensor, "some"]) -> Tape:
        """A copy of some seats."""
        stored = {name: x[seats] for name, x in self.stored.items()}
        return Tape(**{name: x[seats] for name, x in vars(self).items() if name != "stored"}, stored=stored)


@dataclasses.dataclass(frozen=True)
class Emission:
    """What each slot emits in a step. stored: of use where a slot thinks. broken: whether logits, inputs or
    log-probability were not finite."""

    token: Int[Tensor, "slots"]
    log_prob: Float32[Tensor, "slots"]
    inputs: Float32[Tensor, "slots dim"]
    stored: Mapping[str, Shaped[Tensor, "slots _"]]
    broken: Bool[Tensor, "slots"]


@dataclasses.dataclass(frozen=True)
class Machine:
    """What all steps of one batch share."""

    thought: Thought
    vocabulary: Vocabulary
    limits: Limits
    forced: ForcedTexts
    stop: StopTable
    eos: Int[Tensor, "eos_tokens"]
    seed: SeedWords

    def wants(self, phases: set[int]) -> tuple[bool, bool]:
        """Whether a step with slots in these phases mixes embeddings, and whether it draws tokens."""
        mixes = THINKING in phases and not self.thought.is_drawn_token
        return mixes, ANSWERING in phases or (THINKING in phases and self.thought.is_drawn_token)

    def emit(self, hidden: Float[Tensor, "slots dim"], s: Slots, tape: Tape, mixes: bool, draws: bool) -> None:
        """Emit one position per slot from the hidden states, and advance the phases."""
        logits = self.vocabulary.logits(hidden) if mixes or draws else None
        drawn = self._draw_tokens(logits, s) if logits is not None and draws else None
        thought = None
        if mixes:
            thought = self.thought.at(hidden, self.vocabulary, logits).draw(self._keys(s, Stream.THOUGHT))
        emission = self._choose(s, drawn, thought)
        self._record(s, tape, emission)
        self._advance(s, tape, emission)

    def _keys(self, s: Slots, stream: Stream | Tensor) -> StepKeys:
        return StepKeys.of(self.seed, s.problem, s.rollout, s.count, stream)

    def _draw_tokens(self, logits: Tensor, s: Slots) -> tuple[Tensor, Tensor, Tensor]:
        answer, answering = self.limits.answer_temperature, s.phase == ANSWERING
        keys = self._keys(s, torch.where(answering, int(Stream.ANSWER), int(Stream.THOUGHT)))
        if not self.thought.is_drawn_token or self.thought.temperature == answer:
            return draw_tokens(logits, answer, keys)
        thought = torch.full_like(logits[:, 0], self.thought.temperature)
        return draw_tokens(logits, torch.where(answering, answer, thought), keys)

    def _choose(self, s: Slots, drawn: tuple[Tensor, ...] | None, thought: Draw | None) -> Emission:
        """What each slot emits: a thought, a token of the forced text, or an answer token.

        drawn: tokens, their log-probabilities, and which are broken.
        """
        thinking, answering = s.phase == THINKING, s.phase == ANSWERING
        token = self.forced.table[s.forced_text, s.count.clamp(max=self.forced.longest - 1)]
        log_prob = torch.zeros_like(s.inputs[:, 0])
        broken = torch.zeros_like(thinking)
        if drawn is not None:
            chosen = answering | thinking if self.thought.is_drawn_token else answering
            token = torch.where(chosen, drawn[0], token)
            log_prob = torch.where(chosen, drawn[1].float(), log_prob)
            broken = drawn[2] & chosen
        inputs = self.vocabulary.embed(token).float()
        if thought is None:
            return Emission(token, log_prob, inputs, {}, broken)
        token = torch.where(thinking, thought.token, token)
        log_prob = torch.where(thinking, thought.log_prob.float(), log_prob)
        fed = self.thought.fed(thought, self.vocabulary).float()
        inputs = torch.where(thinking[:, None], fed, inputs)
        broken = broken | (thinking & ~(inputs.sum(-1) + log_prob).isfinite())
        return Emission(token, log_prob, inputs, thought.stored, broken)

    def _record(self, s: Slots, tape: Tape, emission: Emission) -> None:
        """Write the emission on the tape, and make it the input of the next step."""
        column = torch.where(s.phase < DONE, s.emitted, tape.ids.shape[1] - 1)
        tape.ids[s.seat, column] = emission.token
        tape.log_prob[s.seat, column] = emission.log_prob
        if emission.stored:
            column = torch.where(s.phase == THINKING, s.count, self.limits.max_thought_steps)
            for name, tensor in tape.stored.items():
                tensor[s.seat, column] = emission.stored[name].to(tensor.dtype)
        s.inputs.copy_(emission.inputs)

    def _advance(self, s: Slots, tape: Tape, emission: Emission) -> None:
        """Move slots whose phase ends with this emission to the next phase, and note lengths and reasons."""
        token, live, thinking, answering = emission.token, s.phase < DONE, s.phase == THINKING, s.phase == ANSWERING
        count = s.count + live.long()
        is_eos = torch.isin(token, self.eos)
        stop_state = torch.where(thinking, self.stop.next_state[s.stop_state, token].long(), s.stop_state)
        ending = torch.minimum(self.stop.ending[stop_state], self.stop.ending_of_token[token])  # the first that matches
        none = len(self.limits.endings.ways)
        thoughts_end = thinking & ((ending < none) | is_eos | (count >= self.limits.max_thought_steps))
        forced_text = torch.where(
            thoughts_end, self.forced.index(ending, self.stop.ends_in_space[token]), s.forced_text
        )
        forced_end = (s.phase == FORCED) & (count >= self.forced.length[s.forced_text])
        answer_end = answering & (is_eos | (count >= self.limits.max_answer_tokens))
        ended = thoughts_end | forced_end | answer_end
        skips_forced = thoughts_end & (self.forced.length[forced_text] == 0)

        reason = ending + ((ending == none) & is_eos).long()  # position in `Endings.reasons`
        for kept, now, when in (
            (tape.reason, reason, thoughts_end),
            (tape.forced_text, forced_text, thoughts_end),
            (tape.thoughts, count, thinking),
            (tape.answers, count, answering),
        ):
            kept[s.seat] = torch.where(when, now, kept[s.seat])
        s.stop_state.copy_(stop_state)
        s.forced_text.copy_(forced_text)
        s.count.copy_(torch.where(ended, 0, count))
        s.emitted.add_(live.long())
        s.phase.copy_(torch.where(emission.broken, BROKEN, s.phase + ended.long() + skips_forced.long()))
