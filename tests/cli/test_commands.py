"""The commands end to end, on models that know nothing."""

import gzip
import json
import subprocess
import sys

import pytest

from softtokens import cli
from softtokens.cli import generate as generating
from softtokens.config.thought import PAPER_SETTINGS
from softtokens.evaluate import sampling
from softtokens.rollout.stopping import decode_text

GSM8K_ROWS = [
    {
        "question": "Natalia sold clips to 48 of her friends in April, and half as many in May. How many in all?",
        "answer": "She sold 48/2 = <<48/2=24>>24 clips in May.\nIn all 48+24 = <<48+24=72>>72 clips.\n#### 72",
    },
    {
        "question": "Weng earns $12 an hour. Yesterday she worked for 50 minutes. How much did she earn?",
        "answer": "Weng earns $<<12/60=0.2>>0.2 per minute.\nSo she earned 0.2 x 50 = $<<0.2*50=10>>10.\n#### 10",
    },
    {"question": "A mill grinds 1,100 sacks a week. How many in 2 weeks?", "answer": "2 x 1,100.\n#### 2,200"},
]


def samples_in(folder, model, task, cell):
    file = folder / "cells" / model / task / cell / "samples.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_evaluate_gsm8k_from_a_local_file(run, model_folder, tmp_path):
    file = tmp_path / "test.jsonl.gz"
    file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in GSM8K_ROWS).encode()))
    task = ["--task", "gsm8k", "--path", file, "--template", "User: {question} Assistant:"]
    limits = ["--max-thought-steps", "6", "--max-answer-tokens", "6", "--samples", "4"]
    model = ["--models", f"m={model_folder}", "--device", "cpu", "--output", tmp_path / "out"]
    code, out, err = run("evaluate", *task, *limits, *model)
    assert (code, err) == (0, "")
    assert "gsm8k: share of problems solved" in out
    for setting in PAPER_SETTINGS:
        summary = json.loads((tmp_path / "out/cells/m/gsm8k" / setting / "summary.json").read_text())
        assert summary["problems"] == 3
        assert list(summary["pass@k"]) == (["1"] if setting.endswith("greedy") else ["1", "2", "3", "4"])
        assert summary["verdicts"]["grader_error"] == summary["verdicts"]["grader_timeout"] == 0
        samples = samples_in(tmp_path / "out", "m", "gsm8k", setting)
        assert {sample["expected"] for sample in samples} == {"72", "10", "2200"}
    code, out, err = run("compare", tmp_path / "out", "--against", "hard-sample", "--output", tmp_path / "c.json")
    assert (code, err) == (0, "")
    assert "pass@1 on gsm8k, against hard-sample" in out
    assert len(json.loads((tmp_path / "c.json").read_text())["comparisons"]) == 5


def test_evaluate_asks_math_verify(run, model_folder, tmp_path, monkeypatch):
    """The model's answers are made up; the verdicts come from the grader's own processes."""
    file = tmp_path / "test.jsonl.gz"
    file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in GSM8K_ROWS).encode()))
    stream = sampling.stream_problems
    answers = {
        0: r" The final answer is: \boxed{\frac{144}{2}}",
        1: r" The final answer is: \boxed{x+1}",
        2: r" \boxed{2200",
    }

    def saying(*arguments, **options):
        for rows, rollout in stream(*arguments, **options):
            rollout.answer_texts[:] = [answers[i] for i in rollout.keys.problem.tolist()]
            yield rows, rollout

    monkeypatch.setattr(sampling, "stream_problems", saying)
    task = ["--task", "gsm8k", "--path", file, "--template", "User: {question} Assistant:"]
    limits = ["--max-thought-steps", "2", "--max-answer-tokens", "2", "--settings", "soft-greedy"]
    where = ["--models", f"m={model_folder}", "--device", "cpu", "--output", tmp_path / "out"]
    code, _, err = run("evaluate", *task, *limits, *where)
    assert (code, err) == (0, "")
    samples = samples_in(tmp_path / "out", "m", "gsm8k", "soft-greedy")
    assert [sample["verdict"] for sample in samples] == ["right", "wrong", "no_answer"]
    assert [sample["extracted"] for sample in samples] == [r"\frac{144}{2}", "x+1", None]


def test_evaluate_a_run_means_its_best_checkpoint(run, model_folder, data_file, tmp_path):
    flags = ["--task", data_file, "--template", "User: {question}", "--device", "cpu", "--grader", "exact"]
    limits = ["--max-thought-steps", "3", "--max-answer-tokens", "2"]
    output = tmp_path / "run"
    training = ["--model", model_folder, "--output", output, "--steps", "2", "--group-size", "2"]
    assert run("train", *flags, *limits, *training, "--validation", data_file, "--validate-every", "1")[0] == 0
    where = ["--models", output, output / "checkpoints/best", "--output", tmp_path / "out", "--samples", "2"]
    assert run("evaluate", *flags, *limits, *where, "--settings", "soft-sample")[0] == 0
    first, second = (samples_in(tmp_path / "out", m, "problems", "soft-sample") for m in ("run", "run-best"))
    assert [s | {"seconds": 0} for s in first] == [s | {"seconds": 0} for s in second]
    models = json.loads((tmp_path / "out/evaluation.json").read_text())["models"]
    assert models[0]["weights"] == models[1]["weights"]
    for model in models:
        assert [model["trained"][key] for key in ("mode", "seed", "steps")] == ["soft", 0, 2]
        assert model["trained"]["run"] == str(output)


def test_evaluate_says_what_was_asked_and_goes_on_after_ctrl_c(run, model_folder, data_file, tmp_path, monkeypatch):
    flags = ["--task", data_file, "--template", "User: {question}", "--device", "cpu", "--grader", "exact"]
    limits = ["--max-thought-steps", "3", "--max-answer-tokens", "2", "--samples", "2"]
    where = ["--models", f"m={model_folder}", "--output", tmp_path / "out", "--settings", "soft-sample"]
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "append_samples", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        code, _, err = run("evaluate", *flags, *limits, *where)
    assert code == 1
    assert (
        err == "softtokens: stopped by Ctrl-C. The samples drawn so far are saved. To continue, run the same command.\n"
    )
    assert run("evaluate", *flags, *limits, *where)[0] == 0
    code, _, err = run("evaluate", *flags, *limits, *where, "--seed", "1")
    assert code == 2
    assert "holds an evaluation under other conditions (seed was 0, is 1)" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("name", ["[bold]run[/bold]", "[/nope]", "run[link=x]\\"])
def test_names_are_not_markup(run, model_folder, data_file, tmp_path, name):
    flags = ["--task", data_file, "--template", "{question}", "--device", "cpu", "--grader", "exact"]
    limits = ["--max-thought-steps", "2", "--max-answer-tokens", "2"]
    training = ["--model", model_folder, "--steps", "1", "--group-size", "2", "--validate-every", "0"]
    folder = tmp_path / name
    code, out, err = run("train", *flags, *limits, *training, "--output", folder)
    assert (code, err) == (0, "")
    assert name in out.replace("\n", "")
    where = ["--models", folder, "--output", folder / "results", "--samples", "1", "--settings", "hard-greedy"]
    code, out, err = run("evaluate", *flags, *limits, *where)
    assert (code, err) == (0, "")
    assert name in out.replace("\n", "")


HOSTILE = ["[bold]Tom[/bold]", "[/red]", "[link=https://example.org]x", "\\[bold]", "a\x1b[31mb\x07", "}{%s{0}", "\\"]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("setting", ["hard-sample", "soft-sample"])
def test_generate_shows_hostile_text_as_it_is(run, model_folder, monkeypatch, text, setting):
    """Hostile text in the question and in the model's output."""
    sample = generating.sample_problems

    def saying(*arguments, **options):
        rollout = sample(*arguments, **options)
        rollout.thought_texts[0] = rollout.answer_texts[0] = f"<{text}>"
        return rollout

    monkeypatch.setattr(generating, "sample_problems", saying)
    monkeypatch.setattr(generating, "decode_text", lambda tokenizer, ids: f"<{text}>")
    flags = ["--model", model_folder, "--setting", setting, "--template", "User: {question}", "--device", "cpu"]
    code, out, err = run("generate", text, *flags, "--trace", "--max-thought-steps", "3", "--max-answer-tokens", "2")
    assert (code, err) == (0, "")
    shown = f"<{text}>".replace("\x1b", "\\x1b").replace("\x07", "\\x07")
    assert f"answer: {shown}" in out
    assert f": {shown}\nanswer" in out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "mixtures" in out


def test_trace_names_the_tokens_and_their_weights(run, model_folder, make_policy):
    flags = ["--model", model_folder, "--setting", "hard-sample", "--template", "User: {question}", "--device", "cpu"]
    limits = ["--max-thought-steps", "3", "--max-answer-tokens", "2"]
    code, out, _ = run("generate", "Tom has", *flags, "--trace", *limits, "--samples", "2")
    assert code == 0
    assert out.count("mixtures (weights at temperature 1;") == 2
    assert "sample 2" in out
    rows = [line for line in out.splitlines() if line.startswith("│")]
    steps = [line for line in rows if line.split("│")[1].strip().isdigit()]
    assert steps
    tokenizer = make_policy().tokenizer
    known = {repr(decode_text(tokenizer, [i])) for i in range(len(tokenizer))}
    assert all(line.split("│")[2].strip() in known for line in steps)


def test_secrets_of_the_environment_stay_there(run, model_folder, data_file, tmp_path, monkeypatch):
    """Runs, evaluations, reports and output contain no environment variable, even when something fails."""
    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "SOME_PASSWORD"):
        monkeypatch.setenv(name, f"secret-{name}")
    task = ["--task", data_file, "--template", "User: {question}", "--max-thought-steps", "3"]
    training = ["train", "--model", model_folder, *task, "--steps", "2", "--group-size", "2", "--validate-every", "0"]
    folders = [tmp_path / "run", tmp_path / "evaluation"]
    calls = [
        [*training, "--output", folders[0]],
        ["evaluate", "--models", model_folder, *task, "--output", folders[1]],
        ["report", *folders, "--output", tmp_path / "report.html"],
        [*training, "--output", folders[0]],  # refused
        ["evaluate", "--models", "/no/such-model", *task, "--output", tmp_path / "evaluation2"],
    ]
    results = [run(*call) for call in calls]
    assert [code for code, _, _ in results] == [0, 0, 0, 2, 2], results
    assert "secret-" not in "".join(out + err for _, out, err in results)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"report.html", "config.json", "metrics.jsonl"} <= {file.name for file in files}
    assert [file for file in files if b"secret-" in file.read_bytes()] == []


def test_a_reader_that_has_seen_enough_is_no_error():
    flags = [sys.executable, "-m", "softtokens.cli", "train", "--dry-run"]
    with subprocess.Popen(flags, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize("size", ["1", "2", "many"])
def test_one_of_several_processes_ends_without_finalization(monkeypatch, size):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", size), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1")):
        monkeypatch.setenv(name, value)
    codes = []
    monkeypatch.setattr("os._exit", codes.append)
    with pytest.raises(SystemExit) as ended:  # the patched os._exit returns
        cli.end(3)
    assert ended.value.code == 3 and codes == ([3] if size == "2" else [])
