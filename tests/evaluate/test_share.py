"""Several processes fill one folder: what they find does not depend on their number."""

import itertools
import json
import os
import subprocess
import sys

import pytest

from softtokens.config.evaluate import EvaluateConfig
from softtokens.evaluate.run import evaluate
from softtokens.evaluate.sample_file import append_samples, read_samples
from softtokens.evaluate.share import Share
from softtokens.types import UserError
from softtokens.world.launch import Launch

from .test_run import Stopped, contents

MORE = {"profile": 4, "traces": 2, "choices": ("facts",), "choices_limit": 5}


def results(root):
    """Everything but the configuration, which says how the processes were called."""
    return {name: content for name, content in contents(root).items() if name != "evaluation.json"}


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (2, 0, 1), (1, 2, 0)])
def test_parts_make_the_whole(config_for, tmp_path, drawn, order):
    whole = results(evaluate(config_for(output=str(tmp_path / "whole"), **MORE)))
    drawn.clear()
    for rank in order:
        root = evaluate(config_for(rank=rank, world=len(order), **MORE))
    assert results(root) == whole  # merged, and no parts are left
    rows = [row for batch in drawn for row in set(batch)]
    assert len([row for row in rows if row[1] == 2]) == 5  # the last sample of each problem was drawn once


def test_another_number_of_processes_continues_what_was_killed(config_for, tmp_path):
    whole = results(evaluate(config_for(output=str(tmp_path / "whole"), rows_per_batch=8)))
    batches = itertools.count()

    def stop(event):
        if event.fresh and next(batches):
            raise Stopped

    with pytest.raises(Stopped):
        evaluate(config_for(rows_per_batch=8, rank=1, world=2), listener=stop)
    assert list((tmp_path / "out").rglob("samples-1-of-2.jsonl"))
    for rank in range(3):
        evaluate(config_for(rows_per_batch=8, rank=rank, world=3))
    assert results(tmp_path / "out") == whole


def test_one_process_finishes_what_a_part_began(config_for, tmp_path, drawn):
    whole = results(evaluate(config_for(output=str(tmp_path / "whole"))))
    evaluate(config_for(rank=1, world=2))
    drawn.clear()
    heard = []
    root = evaluate(config_for(), listener=heard.append)
    assert results(root) == whole
    assert sum(event.fresh for event in heard) < heard[-1].done == heard[-1].total


def test_progress_counts_the_own_share(config_for):
    heard = []
    evaluate(config_for(rank=0, world=2), listener=heard.append)
    assert heard[-1].done == heard[-1].total == 3 * (1 + 3)  # three of five problems


def test_another_processes_file_is_not_repaired(tmp_path):
    sample = {
        "problem": 1, "sample": 0, "seed": 0, "thoughts": "", "answer": "", "extracted": None, "expected": "",
        "verdict": "wrong", "thought_length": 1, "answer_length": 1, "stop": "limit", "seconds": 0.1,
    }  # fmt: skip
    own, other = Share(0, 2), Share(1, 2)
    append_samples(other.file(tmp_path), [sample])
    half = json.dumps(sample | {"sample": 1})[:20]
    with open(other.file(tmp_path), "a") as file:
        file.write(half)  # being written just now
    assert len(own.samples(tmp_path, [1], 0)) == 1
    assert other.file(tmp_path).read_text().endswith(half)
    assert len(read_samples(other.file(tmp_path), [1], 0)) == 1
    assert not other.file(tmp_path).read_text().endswith(half)


def test_shares_are_those_of_the_launcher_or_of_the_flags():
    assert Share.of(EvaluateConfig(), Launch(1, 3)) == Share(1, 3, waits=True)
    assert Share.of(EvaluateConfig(rank=2, world=4), Launch()) == Share(2, 4)
    assert Share.of(EvaluateConfig(), Launch()) == Share()
    assert [Share(1, 3).has(i) for i in range(6)] == [False, True, False] * 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"rank": 0}, "rank and world belong together"),
        ({"rank": 2, "world": 2}, "rank is 2; it must be in 0 .. world - 1, which is 1"),
        ({"rank": 0, "world": 0}, "world is 0; it must be at least 1"),
    ],
)
def test_parts_that_do_not_exist(flags, message):
    with pytest.raises(UserError, match=message):
        EvaluateConfig(**flags)


def test_processes_of_a_launcher_at_the_same_time(model_folder, questions, tmp_path, config_for, monkeypatch):
    flags = f"--models {model_folder} --task {questions} --grader exact --settings hard-greedy soft-sample --samples 3"
    limits = f"--max-thought-steps 6 --max-answer-tokens 4 --device cpu --output {tmp_path / 'several'}"
    command = [sys.executable, "-m", "softtokens.cli", "evaluate", *flags.split(), *limits.split()]
    command += ["--template", "User: {question} Assistant:"]
    environment = os.environ | {"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"}
    processes = [
        subprocess.Popen(
            command,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    printed = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert "evaluation:" in printed[0] and printed[1] == printed[2] == ""
    monkeypatch.undo()  # the real grader
    alone = evaluate(config_for(output=str(tmp_path / "alone")))
    assert results(tmp_path / "several") == results(alone)
