"""The commands end to end, on models that know nothing."""

import gzip
import json

import pytest

from softtokens import generate as generating
from softtokens.evaluate import run as evaluating
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


def test_evaluate_gsm8k_from_a_local_file(run, model_folder, tmp_path):
    file = tmp_path / "test.jsonl.gz"
    file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in GSM8K_ROWS).encode()))
    task = ["--task", "gsm8k", "--path", file, "--template", "User: {question} Assistant:"]
    limits = ["--max-thought-steps", "6", "--max-answer-tokens", "6", "--samples", "4"]
    model = ["--model", model_folder, "--device", "cpu", "--output", tmp_path / "out"]
    code, out, err = run("evaluate", *task, *limits, *model)
    assert (code, err) == (0, "")
    assert "share of problems solved" in out
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert len(results["settings"]) == 6
    for setting, result in results["settings"].items():
        assert result["problems"] == 3
        assert list(result["pass@k"]) == (["1"] if setting.endswith("greedy") else ["1", "2", "4"])
        assert sum(result["verdicts"].values()) == pytest.approx(1)
        assert result["verdicts"]["grader_error"] == result["verdicts"]["grader_timeout"] == 0
    samples = [json.loads(line) for line in (tmp_path / "out/samples.jsonl").read_text().splitlines()]
    assert len(samples) == 3 * (3 + 3 * 4)
    assert {sample["expected"] for sample in samples} == {"72", "10", "2200"}
    assert all(r"\boxed{" in sample["answer"] for sample in samples)


def test_evaluate_asks_math_verify(run, model_folder, tmp_path, monkeypatch):
    """What the model says is put in its mouth; what is thought of it comes from the grader's own processes."""
    file = tmp_path / "test.jsonl.gz"
    file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in GSM8K_ROWS).encode()))
    batches = evaluating.batches
    said = {
        0: r" The final answer is: \boxed{\frac{144}{2}}",
        1: r" The final answer is: \boxed{x+1}",
        2: r" \boxed{2200",
    }

    def saying(*arguments, **options):
        for rows, rollout in batches(*arguments, **options):
            rollout.answer_texts[:] = [said[i] for i, _ in rows]
            yield rows, rollout

    monkeypatch.setattr(evaluating, "batches", saying)
    task = ["--task", "gsm8k", "--path", file, "--template", "User: {question} Assistant:"]
    limits = ["--max-thought-steps", "2", "--max-answer-tokens", "2", "--settings", "soft-greedy"]
    code, _, err = run(
        "evaluate", *task, *limits, "--model", model_folder, "--device", "cpu", "--output", tmp_path / "out"
    )
    assert (code, err) == (0, "")
    samples = [json.loads(line) for line in (tmp_path / "out/samples.jsonl").read_text().splitlines()]
    assert [sample["verdict"] for sample in samples] == ["right", "wrong", "no_answer"]


def test_evaluate_a_run_means_its_best_checkpoint(run, model_folder, data_file, tmp_path):
    flags = ["--task", data_file, "--template", "User: {question}", "--device", "cpu"]
    limits = ["--max-thought-steps", "3", "--max-answer-tokens", "2"]
    output = tmp_path / "run"
    training = [
        "--model",
        model_folder,
        "--output",
        output,
        "--steps",
        "2",
        "--group-size",
        "2",
        "--grader",
        "exact",
    ]
    assert run("train", *flags, *limits, *training, "--validation", data_file, "--validate-every", "1")[0] == 0
    results = []
    exact = ["--grader", "exact", "--samples", "2"]
    for model in (output, output / "checkpoints/best"):
        where = ["--model", model, "--output", tmp_path / f"results{len(results)}"]
        assert run("evaluate", *flags, *limits, *exact, *where)[0] == 0
        results.append((tmp_path / f"results{len(results)}/samples.jsonl").read_text())
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["[bold]run[/bold]", "[/nope]", "run[link=x]\\"])
def test_names_are_not_markup(run, model_folder, data_file, tmp_path, name):
    flags = ["--task", data_file, "--template", "{question}", "--device", "cpu", "--grader", "exact"]
    limits = ["--max-thought-steps", "2", "--max-answer-tokens", "2"]
    training = ["--model", model_folder, "--steps", "1", "--group-size", "2", "--validate-every", "0"]
    folder = tmp_path / name
    code, out, err = run("train", *flags, *limits, *training, "--output", folder)
    assert (code, err) == (0, "")
    assert name in out.replace("\n", "")
    where = ["--model", folder, "--output", folder / "results", "--samples", "1", "--settings", "hard-greedy"]
    code, out, err = run("evaluate", *flags, *limits, *where)
    assert (code, err) == (0, "")
    assert name in out.replace("\n", "")


HOSTILE = ["[bold]Tom[/bold]", "[/red]", "[link=https://example.org]x", "\\[bold]", "a\x1b[31mb\x07", "}{%s{0}", "\\"]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("setting", ["hard-sample", "soft-sample"])
def test_generate_shows_hostile_text_as_it_is(run, model_folder, monkeypatch, text, setting):
    """In the question, and in whatever the model says."""
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
