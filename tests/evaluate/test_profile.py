"""Thought steps by hand: one generation at a time, formulas written out."""

import json
import math

import numpy as np
import pytest
import torch

from softtokens.evaluate.batch_size import BatchSize
from softtokens.evaluate.profile import (
    chosen_rows,
    distance_to_nearest,
    measure_steps,
    profile,
    summarize_steps,
    traces,
)
from softtokens.evaluate.run import thought_of
from softtokens.evaluate.sampling import Sampler
from softtokens.ops import streamed
from softtokens.ops.random import Stream
from softtokens.ops.vocabulary import Vocabulary
from softtokens.rollout.decoder import Decoder
from softtokens.rollout.limits import Limits

from .conftest import PROBLEMS, ByText, make_cell

CELLS = [
    make_cell("hard-greedy"),
    make_cell("hard-sample", tau=0.7),
    make_cell("soft-greedy"),
    make_cell("soft-sample", gamma=0.4),
    make_cell("fuzzy-sample", gamma=0.4),
]
LIMITS = Limits(max_thought_steps=6, max_answer_tokens=3, answer_temperature=0.0)


@pytest.fixture(scope="module")
def sampler(random_policy):
    batch_size = BatchSize(random_policy, rows=None, memory=None)
    return Sampler(Decoder(random_policy), PROBLEMS, LIMITS, ByText(), 0, batch_size)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_steps_by_hand(sampler, cell, monkeypatch):
    policy = sampler.policy
    thought = thought_of(cell, policy.embedding_rms)
    rollout = sampler.draw(thought, [(0, 0), (2, 1), (3, 0)])
    monkeypatch.setattr(streamed, "default_chunk_rows", lambda vocabulary: 3)
    steps = measure_steps(policy, thought, rollout)
    table = policy.model.get_input_embeddings().weight.detach()[: len(policy.tokenizer)]
    unit = policy.embedding_rms * math.sqrt(table.shape[1])
    at = 0
    for row in range(3):
        length, prompt = int(rollout.thought_lengths[row]), int(rollout.prompt_lengths[row])
        fed = [table[i] for i in rollout.ids[row, :prompt].tolist()]
        for step in range(length):
            token = int(rollout.ids[row, prompt + step])
            vector = rollout.stored["inputs"][row, step] if rollout.stored else table[token]
            with torch.no_grad():
                logits = policy.model(inputs_embeds=torch.stack(fed)[None]).logits[0, -1, : len(table)].double()
            p = torch.softmax(logits, -1)
            weights = torch.softmax(logits / cell.temperature, -1) if cell.temperature else (p == p.max()).double()
            expected = {
                "entropy": float(-(p * p.log()).sum()),
                "max_weight": float(weights.max()),
                "effective_support": float(1 / weights.square().sum()),
                "distance_to_token": float((vector - table).norm(dim=-1).min()) / unit,
            }
            noise = 0.0
            if cell.gamma:
                keys = rollout.keys[torch.tensor([row])].at(step, Stream.THOUGHT)
                noise = cell.gamma * policy.embedding_rms * float(keys.normal(table.shape[1]).norm())
            expected["noise"] = noise / unit
            if cell.setting.startswith("hard"):
                expected["noise_ratio"] = 0.0
            else:
                expected["noise_ratio"] = noise / float((weights.float() @ table).norm())
            for name, value in expected.items():
                assert float(getattr(steps, name)[at]) == pytest.approx(value, rel=1e-3, abs=1e-4), (name, row, step)
            assert int(steps.row[at]) == row and int(steps.token[at]) == token
            heaviest = weights.topk(5)
            assert float(steps.top_weights[at, 0]) == pytest.approx(float(heaviest.values[0]), rel=1e-3)
            assert int(steps.top_ids[at, 0]) == int(heaviest.indices[0])
            fed.append(vector)
            at += 1
    assert at == len(steps.row)


def test_the_table_is_embedded_once_for_all_steps(sampler, monkeypatch):
    """Not once per batch: the table has a hundred thousand rows."""
    thought = thought_of(CELLS[0], sampler.policy.embedding_rms)
    rollout = sampler.draw(thought, [(0, 0), (2, 1), (3, 0)])
    embed, embedded = Vocabulary.embed, []
    monkeypatch.setattr(streamed, "default_chunk_rows", lambda vocabulary: 3)
    monkeypatch.setattr(Vocabulary, "embed", lambda self, ids: embedded.append(ids) or embed(self, ids))
    measure_steps(sampler.policy, thought, rollout)
    assert sum(ids.numel() == sampler.policy.vocabulary.size for ids in embedded) == 1


def test_tokens_are_no_distance_from_themselves(random_policy):
    """Exactly 0: the expanded square alone would give 1e-3."""
    vocabulary = random_policy.vocabulary
    table = vocabulary.embed(torch.arange(vocabulary.size)).detach()
    assert distance_to_nearest(table, table[::7]).tolist() == [0.0] * len(table[::7])
    halfway = (table[10] + table[11])[None] / 2
    assert float(distance_to_nearest(table, halfway)[0]) == pytest.approx(
        float((halfway - table).norm(dim=-1).min()), rel=1e-5
    )


def test_summary_over_generations_still_running():
    columns = {
        name: [np.array([1.0, 3.0, 5.0]), np.array([2.0])]
        for name in ("entropy", "effective_support", "distance_to_token", "noise_ratio")
    }
    columns["max_weight"] = [np.array([0.995, 0.5, 0.991]), np.array([0.2])]
    result = summarize_steps(columns, 0.5)
    assert result["running"] == [2, 1, 1]
    assert result["entropy"] == [1.5, 3.0, 5.0]
    assert result["entropy_low"] == [1.25, 3.0, 5.0] and result["entropy_high"] == [1.75, 3.0, 5.0]
    assert result["share_above_0.99"] == [0.5, 0.0, 1.0]
    assert result["overall"]["entropy"] == pytest.approx(11 / 4)
    assert result["overall"]["share_above_0.99"] == 0.5
    assert (result["generations"], result["temperature"], result["entropy_temperature"]) == (2, 0.5, 1.0)


def test_which_generations():
    assert chosen_rows(10, 4, 5) == [(0, 0), (2, 0), (4, 0), (6, 0), (8, 0)]
    assert chosen_rows(2, 3, 5) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert chosen_rows(2, 1, 9) == [(0, 0), (1, 0)]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_profile_does_not_depend_on_its_batches(sampler, cell, monkeypatch):
    thought = thought_of(cell, sampler.policy.embedding_rms)
    rows = chosen_rows(5, 3, 11)
    expected = profile(sampler, thought, rows)
    assert expected["generations"] == 11 == expected["running"][0]
    monkeypatch.setattr("softtokens.evaluate.profile._BATCH", 4)
    result = profile(sampler, thought, rows)
    assert result.keys() == expected.keys()
    for name in ("entropy", "distance_to_token", "noise_ratio", "max_weight"):
        np.testing.assert_allclose(result[name], expected[name], rtol=1e-4, atol=1e-5)
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("cell", CELLS[1:4:2], ids=lambda cell: cell.name)
def test_traces(sampler, cell):
    thought = thought_of(cell, sampler.policy.embedding_rms)
    made = traces(sampler, thought, [(0, 0), (2, 0)], {"model": "m", "task": "t", "cell": cell.name})
    rollout = sampler.draw(thought, [(0, 0), (2, 0)])
    for row, (trace, problem) in enumerate(zip(made, (PROBLEMS[0], PROBLEMS[2]), strict=True)):
        assert (trace["model"], trace["cell"], trace["problem"]) == ("m", cell.name, problem.id)
        assert (trace["prompt"], trace["expected"]) == (problem.prompt, problem.answer)
        assert trace["answer"] == rollout.answer_texts[row]
        columns = trace["step_columns"]
        assert {len(column) for column in columns.values()} == {int(rollout.thought_lengths[row])}
        assert all(len(top) == 5 and top == sorted(top, key=lambda x: -x[1]) for top in columns["top"])
        assert [top[0][1] for top in columns["top"]] == pytest.approx(columns["max_weight"], rel=1e-5)
        assert (max(columns["noise"]) > 0) == (cell.gamma is not None)
        if cell.gamma is not None:
            assert [top[0][0] for top in columns["top"]] == columns["shadow"]


def test_short_memory_while_scoring_halves_the_generations(sampler, monkeypatch):
    thought = thought_of(CELLS[3], sampler.policy.embedding_rms)
    rows = chosen_rows(5, 3, 11)
    expected = profile(sampler, thought, rows)
    measure, sizes = measure_steps, []

    def limited(policy, thought, rollout):
        sizes.append(rollout.rows)
        if rollout.rows > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return measure(policy, thought, rollout)

    monkeypatch.setattr("softtokens.evaluate.profile.measure_steps", limited)
    short = Sampler(sampler.decoder, PROBLEMS, LIMITS, ByText(), 0, BatchSize(sampler.policy, rows=None, memory=None))
    result = profile(short, thought, rows)
    assert sizes == [11, 5, 2, 2, 2, 2, 2, 1]
    assert result["running"] == expected["running"]
    np.testing.assert_allclose(result["entropy"], expected["entropy"], rtol=1e-3, atol=1e-4)
