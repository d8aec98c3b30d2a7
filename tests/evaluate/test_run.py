"""An evaluation end to end: what is written, what is rejected, and what an interruption costs."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from softtokens.cli.tables import evaluation_tables
from softtokens.config.thought import PAPER_SETTINGS
from softtokens.evaluate.folder import locked, order_models
from softtokens.evaluate.results import read_results
from softtokens.evaluate.run import evaluate
from softtokens.files import read_json, write_json
from softtokens.types import UserError

from .conftest import PROBLEMS

FIVE = len(PROBLEMS)


def contents(root):
    """The contents of every file except the locks, without times."""
    result = {}
    for file in sorted(root.rglob("*")):
        if file.is_file() and ".locks" not in file.parts:
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            for line in lines:
                for key in ("seconds", "tokens_per_second"):
                    line.pop(key, None)
            result[str(file.relative_to(root))] = lines
    return result


def test_a_matrix(config_for, model_folder, other_folder, tmp_path):
    heard = []
    config = config_for(
        models=(str(model_folder), f"b={other_folder}"), choices=("facts",), choices_limit=5, profile=4, traces=2
    )
    root = evaluate(config, listener=heard.append)
    assert root == tmp_path / "out"
    results = read_results(root)
    assert results.models == ["random", "b"]
    assert results.cells == ["hard-greedy", "soft-sample"]
    assert set(results.summaries) == {(m, "problems", c) for m in results.models for c in results.cells}
    assert results.main["tasks"][0]["problems"] == FIVE
    assert {m["trained"] for m in results.main["models"]} == {None}
    for (model, task, cell), summary in results.summaries.items():
        assert summary["samples"] == (1 if cell == "hard-greedy" else 3)
        folder = root / "cells" / model / task / cell
        samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        assert [(s["problem"], s["sample"]) for s in samples] == [
            (i, n) for i in range(FIVE) for n in range(summary["samples"])
        ]
        assert read_json(folder / "profile.json")["generations"] == 4
        assert (root / "traces" / model / task / f"{cell}.jsonl").read_text().count("\n") == 2
    assert results.choices["b", "facts"]["items"] == 5
    assert heard[-1].done == heard[-1].total == 2 * (FIVE + 3 * FIVE)
    assert sum(event.fresh for event in heard) == heard[-1].total
    assert sum(event.tokens for event in heard) == sum(s["tokens"] for s in results.summaries.values())


def test_what_is_finished_is_not_done_again(config_for, drawn):
    config = config_for(profile=2, traces=1, choices=("facts",), choices_limit=3)
    root = evaluate(config)
    before = {file: file.stat().st_mtime_ns for file in (root / "cells").rglob("*") if file.is_file()}
    drawn.clear()
    heard = []
    evaluate(config, listener=heard.append)
    assert drawn == []
    assert before == {file: file.stat().st_mtime_ns for file in (root / "cells").rglob("*") if file.is_file()}
    assert heard[-1].done == heard[-1].total and sum(event.fresh for event in heard) == 0


class Stopped(Exception):
    pass


@pytest.mark.parametrize(("batches", "kept"), [(1, 5), (2, 13), (3, 20)])
def test_a_stop_after_some_batches_costs_none_of_them(config_for, tmp_path, drawn, batches, kept):
    """The batches: 5 greedy samples, then 8 and 7 sampled ones. The stop comes when a batch has been written."""
    expected = contents(evaluate(config_for(output=str(tmp_path / "whole"), rows_per_batch=8)))
    drawn.clear()

    def stop(event):
        del event
        if len(drawn) == batches:
            raise Stopped

    with pytest.raises(Stopped):
        evaluate(config_for(rows_per_batch=8), listener=stop)
    drawn.clear()
    evaluate(config_for(rows_per_batch=8))
    assert sum(len(set(batch)) for batch in drawn) == 4 * FIVE - kept
    assert {**contents(tmp_path / "out"), "evaluation.json": None} == {**expected, "evaluation.json": None}


def test_more_samples_are_added_to_those_that_are_there(config_for, tmp_path, drawn):
    evaluate(config_for())
    drawn.clear()
    root = evaluate(config_for(samples=6))
    assert {n for batch in drawn for _, n in batch} == {3, 4, 5}
    fresh = evaluate(config_for(samples=6, output=str(tmp_path / "fresh")))
    assert {**contents(root), "evaluation.json": None} == {**contents(fresh), "evaluation.json": None}


def test_fewer_samples_than_there_are_leave_them_alone(config_for, drawn):
    root = evaluate(config_for(samples=6))
    drawn.clear()
    evaluate(config_for(samples=2))
    assert drawn == []
    assert read_results(root).summaries["random", "problems", "soft-sample"]["samples"] == 6


def test_models_settings_and_tasks_are_added(config_for, other_folder, questions, tmp_path):
    root = evaluate(config_for())
    evaluate(config_for(models=(f"b={other_folder}",), settings=("fuzzy-sample",), gammas=(1.0,)))
    second = questions.rename(tmp_path / "more.jsonl")
    evaluate(config_for(task={"name": str(second)}, settings=("hard-greedy",)))
    results = read_results(root)
    assert (results.models, results.tasks) == (["random", "b"], ["problems", "more"])
    assert results.cells == ["hard-greedy", "soft-sample", "fuzzy-sample_gamma=1.0"]
    assert len(results.summaries) == 4


def test_the_order_of_models_can_be_put_right(config_for, other_folder):
    root = evaluate(config_for(settings=("hard-greedy",)))
    evaluate(config_for(models=(f"b={other_folder}",), settings=("hard-greedy",)))
    order_models(root, ["b", "nobody"])
    assert read_results(root).models == ["b", "random"]


def test_several_tasks(config_for, questions, tmp_path):
    second = tmp_path / "more.jsonl"
    second.write_text(questions.read_text())
    results = read_results(evaluate(config_for(tasks=(str(questions), f"two={second}"), settings=("hard-greedy",))))
    assert results.tasks == ["problems", "two"]
    first, second = (results.summaries["random", task, "hard-greedy"] for task in results.tasks)
    assert first["right"] == second["right"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"max_thought_steps": 5}, "max_thought_steps was 6, is 5"),
        ({"max_answer_tokens": 3}, "max_answer_tokens was 4, is 3"),
        ({"dtype": "bfloat16"}, "dtype was float32, is bfloat16"),
        ({"mask_unused": False}, "mask_unused was True, is False"),
        ({"task": {"limit": 4}}, "task 'problems' has other problems: limit was None, is 4"),
        ({"task": {"template": "{question}"}}, "task 'problems' has other problems: template was"),
        ({"task": {"grader": "math"}}, "task 'problems': grader was 'exact', is 'math'"),
    ],
    ids=lambda x: "" if isinstance(x, str) else str(x),
)
def test_other_conditions_are_refused_by_name(config_for, options, message):
    root = evaluate(config_for(settings=("hard-greedy",)))
    before = contents(root)
    with pytest.raises(UserError) as error:
        evaluate(config_for(settings=("hard-greedy",), **options))
    assert "holds an evaluation under other conditions" in str(error.value)
    assert message in str(error.value)
    assert contents(root) == before


def test_other_weights_are_refused(config_for, other_folder, model_folder, tmp_path):
    evaluate(config_for(models=(f"m={model_folder}",), settings=("hard-greedy",)))
    with pytest.raises(UserError, match=r"model 'm' has other weights or another tokenizer than before, from "):
        evaluate(config_for(models=(f"m={other_folder}",), settings=("hard-greedy",)))
    moved = tmp_path / "moved"
    moved.symlink_to(model_folder, target_is_directory=True)
    evaluate(config_for(models=(f"m={moved}",), settings=("hard-greedy",)))  # the same weights elsewhere are the same


def test_other_problems_in_the_same_file_are_refused(config_for, questions):
    evaluate(config_for(settings=("hard-greedy",)))
    questions.write_text(questions.read_text().replace("Tom has 4", "Tom has 5"))
    with pytest.raises(UserError, match="task 'problems' has other problems: 5 problems before, 5 now"):
        evaluate(config_for(settings=("hard-greedy",)))


def test_other_choices_under_the_same_name_are_refused(config_for):
    options = {"settings": ("hard-greedy",), "choices": ("facts",)}
    evaluate(config_for(choices_limit=3, **options))
    with pytest.raises(UserError, match=r"facts.json was made from other items"):
        evaluate(config_for(choices_limit=4, **options))


def test_other_choices_for_another_model_are_refused_at_once(config_for, other_folder):
    options = {"settings": ("hard-greedy",), "choices": ("facts",)}
    root = evaluate(config_for(choices_limit=3, **options))
    with pytest.raises(UserError, match=r"facts.json was made from other items"):
        evaluate(config_for(models=(f"b={other_folder}",), choices_limit=4, **options))
    assert read_results(root).models == ["random"]


def test_a_newer_summary_is_not_written_over(config_for):
    root = evaluate(config_for(settings=("hard-greedy",)))
    file = root / "cells/random/problems/hard-greedy/summary.json"
    write_json(file, read_json(file) | {"schema": 2})
    with pytest.raises(UserError, match=r"summary\.json has schema 2, this version reads 1"):
        evaluate(config_for(settings=("hard-greedy",)))
    assert read_json(file)["schema"] == 2


def test_a_model_may_be_called_evaluation(config_for, model_folder):
    """Others can join while it is being evaluated."""
    config = config_for(models=(f"evaluation={model_folder}",), settings=("hard-greedy",))
    root = evaluate(config)
    with locked(root, "evaluation"):
        order_models(root, ["evaluation"])


def test_tables_of_what_could_not_be_measured(config_for):
    """lm-eval does not say of every task which choice is right."""
    root = evaluate(config_for(settings=("hard-greedy",), choices=("facts",), choices_limit=3))
    file = root / "choices/random/facts.json"
    write_json(file, read_json(file) | {"nll_per_token": {"value": None, "low": None, "high": None}})
    table = list(evaluation_tables(read_results(root)))[-1]
    assert list(table.columns[-1].cells) == ["-"]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"schema": 1}'])
def test_a_damaged_evaluation_is_refused(config_for, damage):
    root = evaluate(config_for(settings=("hard-greedy",)))
    (root / "evaluation.json").write_text(damage)
    with pytest.raises(UserError, match=r"evaluation\.json is damaged"):
        evaluate(config_for(settings=("hard-greedy",)))


def test_another_schema_is_refused(config_for):
    root = evaluate(config_for(settings=("hard-greedy",)))
    write_json(root / "evaluation.json", read_json(root / "evaluation.json") | {"schema": 99})
    with pytest.raises(UserError, match="has schema 99, this version reads 1"):
        evaluate(config_for(settings=("hard-greedy",)))


@pytest.mark.parametrize("damage", [b"", b'{"schema": 1, "sampl', b"\xff"])
def test_a_damaged_summary_is_made_again_from_the_samples(config_for, drawn, damage):
    root = evaluate(config_for())
    expected = contents(root)
    (root / "cells/random/problems/soft-sample/summary.json").write_bytes(damage)
    drawn.clear()
    evaluate(config_for())
    assert drawn == []
    assert contents(root) == expected


def test_a_cell_cut_in_half_goes_on(config_for, drawn):
    root = evaluate(config_for())
    expected = contents(root)
    cell = root / "cells/random/problems/soft-sample"
    (cell / "summary.json").unlink()
    whole = (cell / "samples.jsonl").read_bytes()
    (cell / "samples.jsonl").write_bytes(whole[: len(whole) // 2])
    drawn.clear()
    evaluate(config_for())
    kept = whole[: len(whole) // 2].count(b"\n")
    assert len({row for batch in drawn for row in batch}) == 3 * FIVE - kept
    assert contents(root) == expected


def test_an_output_that_is_something_else(config_for, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something other than an evaluation"):
        evaluate(config_for())
    with pytest.raises(UserError, match="which is a file"):
        evaluate(config_for(output=str(tmp_path / "out/notes.txt")))
    with pytest.raises(UserError, match="which cannot be written: Not a directory"):
        evaluate(config_for(output=str(tmp_path / "out/notes.txt/deeper")))


def test_mistakes_are_found_before_anything_is_written(config_for, other_folder, tmp_path):
    """The second model is missing, or too small for the task. This must be reported before the first is evaluated for
    days."""
    for models, message in [
        ((str(other_folder), "/nowhere/model"), "a folder that does not exist"),
        ((str(other_folder), str(tmp_path)), "has no config.json"),
    ]:
        with pytest.raises(UserError, match=message):
            evaluate(config_for(models=models))
    with pytest.raises(UserError, match="the model's context of 256"):
        evaluate(config_for(max_thought_steps=250))
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_checkpoint_is_named(config_for, tmp_path):
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    (run_folder / "config.json").write_text('{"thought": {"mode": "soft"}, "task": {"name": "arithmetic"}}')
    with pytest.raises(UserError, match="a training run that has no checkpoint yet"):
        evaluate(config_for(models=(str(run_folder),)))


def test_a_second_process_on_the_same_model_is_refused(config_for, tmp_path):
    evaluate(config_for(settings=("hard-greedy",)))
    script = (
        "import sys, time; from pathlib import Path; from softtokens.evaluate.folder import locked\n"
        f"with locked(Path({str(tmp_path / 'out')!r}), 'random'):\n    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=r"'random' in .* is being evaluated by another process"):
            evaluate(config_for())
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    evaluate(config_for())  # the lock was released with its process
    with locked(tmp_path / "out", "random"):
        pass


def test_damaged_weights_are_refused(config_for, make_policy, tmp_path):
    policy = make_policy("llama-untied", seed=5)
    policy.model.get_output_embeddings().weight.data[3, 0] = float("nan")
    policy.save(tmp_path / "damaged")
    with pytest.raises(UserError, match=r"numbers that are not finite in lm_head\.weight"):
        evaluate(config_for(models=(str(tmp_path / "damaged"),), settings=PAPER_SETTINGS))


def test_profiles_and_traces_are_added_later(config_for, drawn):
    root = evaluate(config_for())
    drawn.clear()
    evaluate(config_for(profile=3))
    assert sum(len(set(batch)) for batch in drawn) == 2 * 3
    drawn.clear()
    evaluate(config_for(profile=2, traces=4))
    assert sum(len(set(batch)) for batch in drawn) == 2 * 4  # the profile of 3 covers 2
    assert read_json(root / "cells/random/problems/soft-sample/profile.json")["generations"] == 3


def lines_in(folder):
    return sum(file.read_bytes().count(b"\n") for file in folder.rglob("samples.jsonl"))


@pytest.mark.slow
def test_kill_minus_nine_at_any_moment(config_for, model_folder, questions, tmp_path):
    """Killed again and again, the evaluation ends with the files of an uninterrupted one."""
    flags = ["--models", str(model_folder), "--task", str(questions), "--template", "User: {question} Assistant:"]
    flags += ["--grader", "exact", "--device", "cpu", "--samples", "40", "--max-thought-steps", "30"]
    flags += ["--max-answer-tokens", "4", "--rows-per-batch", "8", "--settings", "hard-sample", "soft-sample"]
    command = [sys.executable, "-m", "softtokens.cli", "evaluate", *flags]
    subprocess.run([*command, "--output", str(tmp_path / "whole")], check=True, capture_output=True)
    broken = tmp_path / "broken"
    cells = broken / "cells/random/problems"
    recorded = []
    for attempt in range(5):
        process = subprocess.Popen([*command, "--output", str(broken)], stdout=subprocess.DEVNULL)
        before = lines_in(cells)
        while process.poll() is None and lines_in(cells) == before:
            time.sleep(0.001)
        time.sleep(0.005 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        recorded.append(lines_in(cells))
    assert sorted(set(recorded)) == recorded  # each start keeps the existing results and adds to them
    subprocess.run([*command, "--output", str(broken)], check=True, capture_output=True)
    assert {**contents(broken), "evaluation.json": None} == {**contents(tmp_path / "whole"), "evaluation.json": None}


def test_one_problem_and_one_sample(config_for):
    results = read_results(evaluate(config_for(task={"limit": 1}, samples=1, profile=1)))
    summary = results.summaries["random", "problems", "soft-sample"]
    assert list(summary["pass@k"]) == ["1"]
    assert summary["pass@k"]["1"]["low"] is None
    assert summary["pass@k"]["1"]["value"] in (0.0, 1.0)
