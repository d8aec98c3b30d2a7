"""Recorded steps, without a device that can record: a stand-in replays the very call that it was made from, with the
numbers of the host that it had then. What depends on other numbers would come out wrong, as on the device."""

from __future__ import annotations

import logging
import weakref

import pytest
import torch

from softtokens.ops.random import Keys
from softtokens.rollout.decode import sample_rollout, stream_rollouts
from softtokens.rollout.decoder import Decoder
from softtokens.rollout.limits import Limits
from softtokens.rollout.recording import KeptBuffers, Recorder
from softtokens.thoughts import Gaussian, Hard, LogitGaussian

LIMITS = Limits(max_thought_steps=20, max_answer_tokens=4)
OF_ROW = [i % 3 for i in range(20)]


def keys(seed=3):
    return Keys(seed, torch.tensor(OF_ROW), torch.arange(len(OF_ROW)))


@pytest.fixture
def lively(make_policy):
    policy = make_policy(dtype=torch.float64)
    policy.eos_ids = frozenset(range(0, 300, 12))  # rows of all lengths
    return policy


def recording(policy, made):
    """A decoder whose steps are recorded by the stand-in, which appends to `made` each time."""
    decoder = Decoder(policy)
    decoder.recordings = KeptBuffers(lambda: lambda step: made.append(1) or step)
    return decoder


@pytest.mark.parametrize("thought", [Hard(8.0), Gaussian(0.5, 1.0), LogitGaussian(0.5, 3.0, 5)])
def test_recorded_steps_give_the_same_rollouts(lively, prompts, thought):
    made = []
    plain = [sample_rollout(lively, thought, prompts, OF_ROW, keys(seed), LIMITS) for seed in (3, 3, 4)]
    decoder = recording(lively, made)
    recorded = [
        sample_rollout(lively, thought, prompts, OF_ROW, keys(seed), LIMITS, decoder=decoder) for seed in (3, 3, 4)
    ]
    assert len(made) > 3
    for ours, theirs in zip(recorded, plain, strict=True):
        assert torch.equal(ours.ids, theirs.ids) and ours.stop_reasons == theirs.stop_reasons
        if ours.stored:
            torch.testing.assert_close(ours.stored["inputs"], theirs.stored["inputs"], rtol=1e-5, atol=1e-6)


def test_slots_are_refilled_while_steps_are_recorded(lively, prompts):
    thought = Gaussian(0.5, 1.0)
    whole = sample_rollout(lively, thought, prompts, OF_ROW, keys(), LIMITS)
    decoder = recording(lively, [])
    for _ in range(2):  # the second time on used buffers
        for rows, part in stream_rollouts(lively, thought, prompts, OF_ROW, keys(), LIMITS, slots=8, decoder=decoder):
            for at, row in enumerate(rows.tolist()):
                length = int(part.lengths[at])
                assert torch.equal(part.ids[at, :length], whole.ids[row, :length])


def test_steps_that_cannot_be_recorded_run_as_they_are(caplog):
    def refuse(step):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    runs = []
    recorder = Recorder(refuse)
    with caplog.at_level(logging.WARNING):
        for kind in (1, 1, 2, 1, 2):
            recorder.run(kind, lambda kind=kind: runs.append(kind))
    assert runs == [1, 1, 2, 1, 2]
    (record,) = caplog.records
    assert "could not be recorded" in record.message and record.message.endswith("stream is capturing")


def test_each_kind_is_run_recorded_and_replayed():
    log = []
    recorder = Recorder(lambda step: log.append("record") or (lambda: log.append("replay")))
    for kind in ("a", "a", "a", "b", "b"):
        recorder.run(kind, lambda kind=kind: log.append(kind))
    assert log == ["a", "record", "replay", "replay", "b", "record", "replay"]


def test_only_the_last_buffers_are_kept():
    made = []
    kept = KeptBuffers(lambda: lambda step: step)
    for kind in ("train", "validate", "train", "evaluate", "train", "validate"):
        kept.get(kind, 1, lambda kind=kind: made.append(kind))
    assert made == ["train", "validate", "evaluate", "validate"]


class Graph:
    """A recording, which a pool of memory lives as long as."""

    def __init__(self, step):
        self.replay = step

    def __call__(self):
        self.replay()


def pools():
    """Like CUDA graphs: a pool whose last graph is gone takes no more."""
    graphs = []

    def record(step):
        if graphs and not any(graph() for graph in graphs):
            raise RuntimeError("the pool is freed")
        graph = Graph(step)
        graphs.append(weakref.ref(graph))
        return graph

    return record


def test_new_buffers_do_not_record_into_a_freed_pool(caplog):
    kept = KeptBuffers(pools)
    for need in (1, 2, 3):  # each replaces the buffers, and with them the only recordings
        _, recorder = kept.get("train", need, object)
        for _ in range(3):
            recorder.run("step", lambda: None)
        del recorder
    kept.clear()
    _, recorder = kept.get("train", 1, object)
    for _ in range(3):
        recorder.run("step", lambda: None)
    assert not caplog.records


def test_recordings_outlive_prompts_of_changing_length(lively, prompts):
    """Prompts of three lengths that need buffers of three sizes, again and again."""
    thought, made = Gaussian(0.5, 1.0), []
    batches = [[prompt * copies for prompt in prompts] for copies in (1, 3, 2, 3)]
    assert len({lively.view(max(map(len, batch)) + 24) for batch in batches}) >= 3
    plain = [sample_rollout(lively, thought, batch, OF_ROW, keys(), LIMITS) for batch in batches]
    decoder, recorded = recording(lively, made), []
    for number, batch in enumerate(batches * 3):
        if number == len(batches) * 2:
            made.clear()
        recorded.append(sample_rollout(lively, thought, batch, OF_ROW, keys(), LIMITS, decoder=decoder))
    assert made == []  # every step has been recorded by then
    for ours, theirs in zip(recorded, plain * 3, strict=True):
        assert torch.equal(ours.ids, theirs.ids) and ours.stop_reasons == theirs.stop_reasons
