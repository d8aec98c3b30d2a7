"""Filling a cell: what must not matter to its samples, and what happens when memory runs out."""

import itertools

import pytest
import torch

from softtokens.config.evaluate import EvaluateConfig
from softtokens.config.thought import PAPER_SETTINGS, ThoughtConfig
from softtokens.evaluate import sampling
from softtokens.evaluate.batch_size import BatchSize
from softtokens.evaluate.cells import cells_of
from softtokens.evaluate.run import thought_of
from softtokens.evaluate.sample_file import append_samples, read_samples
from softtokens.evaluate.sampling import Sampler, count_right
from softtokens.evaluate.share import Share
from softtokens.ops.random import evaluation_seed
from softtokens.rollout.batches import sample_problems
from softtokens.rollout.decoder import Decoder
from softtokens.rollout.limits import Limits, needed_positions
from softtokens.rollout.memory import bytes_per_row, is_out_of_memory
from softtokens.thoughts import build_thought
from softtokens.types import UserError

from .conftest import LIMITS, PROBLEMS, ByText

CELLS = {cell.name: cell for cell in cells_of(EvaluateConfig(gammas=(0.5,)))} | {
    cell.name: cell for cell in cells_of(EvaluateConfig())
}


def sampler_of(policy, *, problems=PROBLEMS, rows=256, seed=0, limits=None):
    limits = limits or Limits(**LIMITS, answer_temperature=0.0)
    return Sampler(Decoder(policy), problems, limits, ByText(), seed, BatchSize(policy, rows=rows, memory=None))


def fill(sampler, setting, file, *, samples=5, have=()):
    """The final samples of a cell, in order, without times."""
    thought = thought_of(CELLS[setting], sampler.policy.embedding_rms)
    done = {(sample["problem"], sample["sample"]) for sample in have}
    ids = [problem.id for problem in sampler.problems]
    rows = [(i, n) for i, n in sampler.rows(samples, Share()) if (ids[i], n) not in done]
    sampler.fill(thought, rows, file, lambda drawn: None)
    result = read_samples(file, ids, sampler.seed)
    result = [{k: v for k, v in sample.items() if k != "seconds"} for sample in result]
    return sorted(result, key=lambda sample: (sample["problem"], sample["sample"]))


@pytest.fixture
def files(tmp_path):
    return (tmp_path / f"{i}.jsonl" for i in itertools.count())


@pytest.mark.parametrize("setting", PAPER_SETTINGS)
def test_batches_do_not_matter(random_policy, files, setting):
    expected = fill(sampler_of(random_policy), setting, next(files))
    assert [(s["problem"], s["sample"]) for s in expected] == [(p.id, n) for p in PROBLEMS for n in range(5)]
    for rows in (3, 8):
        assert fill(sampler_of(random_policy, rows=rows), setting, next(files)) == expected


@pytest.mark.parametrize("setting", ["hard-sample", "soft-sample", "fuzzy-sample"])
def test_samples_added_are_those_of_a_fresh_run(random_policy, files, drawn, setting):
    """4, then 8 of them: the first 4 are kept, and 4..7 are what 8 at once would have drawn."""
    limits = Limits(max_thought_steps=12, max_answer_tokens=4, answer_temperature=0.0)
    sampler = sampler_of(random_policy, limits=limits)
    fresh = fill(sampler, setting, next(files), samples=8)
    file = next(files)
    first = fill(sampler, setting, file, samples=4)
    drawn.clear()
    added = fill(sampler, setting, file, samples=8, have=read_samples(file, [p.id for p in PROBLEMS], 0))
    assert added == fresh
    assert first == [sample for sample in fresh if sample["sample"] < 4]
    assert {n for batch in drawn for _, n in batch} == {4, 5, 6, 7}
    assert len({sample["thoughts"] for sample in fresh}) > len(PROBLEMS)


@pytest.mark.parametrize("setting", ["hard-sample", "soft-sample"])
def test_samples_depend_on_the_problem_and_not_on_its_neighbours(random_policy, files, setting):
    everything = fill(sampler_of(random_policy), setting, next(files))
    alone = fill(sampler_of(random_policy, problems=PROBLEMS[2:3]), setting, next(files))
    assert alone == [sample for sample in everything if sample["problem"] == 20]


def test_seeds_matter_to_samples_and_not_to_greedy_settings(random_policy, files):
    def texts(setting, seed):
        result = fill(sampler_of(random_policy, seed=seed), setting, next(files))
        return [sample["thoughts"] + sample["answer"] for sample in result]

    for setting in PAPER_SETTINGS:
        assert (texts(setting, 0) == texts(setting, 1)) == setting.endswith("greedy"), setting


def test_what_the_file_holds_is_what_was_found(random_policy, files):
    file = next(files)
    result = fill(sampler_of(random_policy, rows=8), "soft-sample", file)
    kept = read_samples(file, [p.id for p in PROBLEMS], 0)
    assert all(sample.pop("seconds") > 0 for sample in kept)
    assert sorted(kept, key=lambda s: (s["problem"], s["sample"])) == result
    assert all(r"\boxed{" in sample["answer"] for sample in result)


def test_greedy_accuracy_is_that_of_the_greedy_setting(random_policy, files):
    """Validation during training equals the greedy setting of an evaluation."""
    for mode in ("hard", "soft", "fuzzy"):
        thought = build_thought(ThoughtConfig(mode=mode), random_policy.embedding_rms, greedy=True)
        right = count_right(Decoder(random_policy), thought, PROBLEMS, Limits(6, 4, 0.0), ByText(), seed=0, slots=8)
        result = fill(sampler_of(random_policy), f"{mode}-greedy", next(files), samples=1)
        assert right == [int(sample["verdict"] == "right") for sample in result]


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    MemoryError(),
]


def short_of_memory(monkeypatch, most, error, ends=()):
    """Running more than `most` rows at a time fails, after those groups of rows have ended that `ends` counts. Returns
    the sizes that were tried."""
    stream, sizes = sampling.stream_problems, []

    def limited(*arguments, slots, **options):
        sizes.append(slots)
        groups = stream(*arguments, slots=min(slots, most), **options)
        if slots <= most:
            yield from groups
            return
        yield from itertools.islice(groups, ends[len(sizes) - 1] if len(sizes) <= len(ends) else 0)
        raise error

    monkeypatch.setattr(sampling, "stream_problems", limited)
    return sizes


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda e: type(e).__name__)
def test_running_out_of_memory_halves_the_rows_and_loses_nothing(random_policy, files, monkeypatch, drawn, error):
    expected = fill(sampler_of(random_policy), "soft-sample", next(files))
    sizes = short_of_memory(monkeypatch, 8, error, ends=(1, 0))
    file = next(files)
    assert fill(sampler_of(random_policy, rows=32), "soft-sample", file) == expected
    assert sizes == [32, 16, 8]
    kept = read_samples(file, [p.id for p in PROBLEMS], 0)
    assert sorted((s["problem"], s["sample"]) for s in kept) == [(p.id, n) for p in PROBLEMS for n in range(5)]


def test_memory_for_three_rows_only(random_policy, files, monkeypatch):
    sizes = short_of_memory(monkeypatch, 3, torch.OutOfMemoryError("CUDA out of memory"))
    result = fill(sampler_of(random_policy, rows=16), "hard-sample", next(files), samples=2)
    assert [(s["problem"], s["sample"]) for s in result] == [(p.id, n) for p in PROBLEMS for n in range(2)]
    assert sizes == [16, 8, 4, 2]


def test_a_single_row_that_does_not_fit(random_policy, files, monkeypatch):
    short_of_memory(monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(UserError, match="memory ran out with a single rollout; lower max_thought_steps"):
        fill(sampler_of(random_policy), "soft-sample", next(files))


def test_other_failures_are_not_mistaken_for_it(random_policy, files, monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(sampling, "stream_problems", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        fill(sampler_of(random_policy), "soft-sample", next(files))
    assert not is_out_of_memory(ValueError("no"))


def test_rows_follow_from_the_memory_budget(random_policy):
    """By hand: 2 layers, 2 key heads of 8, keys and values, twice, float32; 16 bytes a logit; thoughts twice."""
    limits = Limits(6, 4, 0.0)
    vocab = random_policy.vocabulary.head.shape[0]
    per_row = 2 * (2 * 2 * 2 * 8 * 100 * 4) + 16 * vocab + 2 * 4 * 32 * 6
    assert bytes_per_row(random_policy, 100, limits) == per_row
    prompts = [[1] * 5]
    positions = needed_positions(random_policy, prompts, limits)
    budget = 41.5 * bytes_per_row(random_policy, positions, limits)
    assert BatchSize(random_policy, rows=None, memory=budget / 1e9).allowed(prompts, limits) == 40
    assert BatchSize(random_policy, rows=None, memory=1e-9).allowed(prompts, limits) == 8
    assert BatchSize(random_policy, rows=None, memory=None).allowed(prompts, limits) == 256  # this machine has some MB
    assert BatchSize(random_policy, rows=3, memory=None).allowed(prompts, limits) == 3


GOOD = {
    "problem": 1,
    "sample": 0,
    "seed": 0,
    "thoughts": "t\u2028",
    "answer": "\\boxed{1}",
    "extracted": None,
    "expected": "1",
    "verdict": "right",
    "thought_length": 1,
    "answer_length": 1,
    "stop": "phrase",
    "seconds": 0.5,
}


@pytest.mark.parametrize(
    "garbage",
    [
        b'{"problem": 1, "sam',
        b"\xff\xfe\n",
        b"null\n",
        b'{"problem": 1}\n',
        b"\n\n",
        b'{"problem": "1"}\n[]\n',
    ],
)
def test_damaged_lines_are_dropped_and_whole_ones_kept(tmp_path, garbage):
    """A kill truncates the last line; other damage can be anywhere."""
    file = tmp_path / "samples.jsonl"
    second = GOOD | {"sample": 1}
    append_samples(file, [GOOD])
    middle = garbage if garbage.endswith(b"\n") else b""
    with open(file, "ab") as out:
        out.write(middle)
    append_samples(file, [second, GOOD | {"answer": "a repeated number"}, GOOD | {"problem": 2}, GOOD | {"seed": 9}])
    with open(file, "ab") as out:
        out.write(garbage)
    assert read_samples(file, [1], 0) == [GOOD, second]
    append_samples(file, [GOOD | {"sample": 2}])
    assert len(read_samples(file, [1], 0)) == 3
    assert file.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("change", [{"verdict": "maybe"}, {"sample": -1}, {"seconds": None}, {"extra": 1}])
def test_lines_of_another_kind_are_dropped(tmp_path, change):
    file = tmp_path / "samples.jsonl"
    append_samples(file, [GOOD | change])
    assert read_samples(file, [1], 0) == []


def test_no_file_is_no_samples(tmp_path):
    assert read_samples(tmp_path / "samples.jsonl", [1], 0) == []


def test_an_evaluation_draws_other_noise_than_the_training_of_its_problems(random_policy):
    """With the same seed, problems and numbers of rollouts."""
    thought = thought_of(CELLS["hard-sample"], random_policy.embedding_rms)
    limits = Limits(**LIMITS, answer_temperature=0.0)
    drawn = sampler_of(random_policy, seed=7).draw(thought, [(i, 0) for i in range(len(PROBLEMS))])
    texts = []
    for seed in (7, evaluation_seed(7)):
        rollout = sample_problems(random_policy, thought, PROBLEMS, [[0]] * len(PROBLEMS), limits, seed=seed)
        texts.append(rollout.thought_texts)
    assert drawn.thought_texts == texts[1]
    assert not set(texts[0]) & set(texts[1])
