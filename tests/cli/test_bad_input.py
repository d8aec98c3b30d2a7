"""A user's mistake gets one sentence and exit code 2, before anything is written."""

import gzip
import json
import shutil

import pytest

TRAIN = ["train", "--device", "cpu", "--steps", "1", "--group-size", "2"]
SHORT = ["--max-thought-steps", "3", "--max-answer-tokens", "2"]


@pytest.fixture
def refused(run, tmp_path):
    """Run a command that must fail with code 2; returns its message."""

    def refused(*arguments, code=2):
        got, out, err = run(*arguments)
        assert got == code, err
        assert "Traceback" not in err
        assert err.startswith("softtokens: ")
        assert len(err.splitlines()) == 1
        assert out.strip() == ""
        assert not (tmp_path / "run").exists()
        return err

    return refused


@pytest.fixture
def training(model_folder, data_file, tmp_path):
    """Flags of a training run that would work."""
    where = ["--output", tmp_path / "run", "--model", model_folder, "--task", data_file, "--validate-every", "0"]
    return [*TRAIN, *SHORT, *where, "--template", "User: {question}"]


def test_the_flags_below_would_work(run, training, tmp_path):
    assert run(*training)[0] == 0
    assert (tmp_path / "run/metrics.jsonl").read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no rows; at least 1 is needed"),
        ("\n\n", "holds no rows; at least 1 is needed"),
        ('{"question": "1", "answer": 1}\n{"question": "2", "ans\n', "line 2 is not valid JSON"),
        ('{"question": "1", "answer": 1}\n[1, 2]\n', "line 2 is [1, 2]; each row has to be an object"),
        ('{"q": "1", "answer": "1"}\n', "has no column 'question' or 'problem'; it has 'q', 'answer'"),
        ('{"question": "1"}\n', "has no column 'answer'"),
        ('{"question": "1", "answer": null}\n', "'answer' is missing or null"),
        ('{"question": "", "answer": "1"}\n', "'question' is empty"),
    ],
)
def test_a_data_file_that_is_wrong(refused, training, data_file, content, message):
    data_file.write_text(content)
    assert message in refused(*training)


def test_a_data_file_that_is_not_what_its_name_says(refused, training, tmp_path):
    file = tmp_path / "problems.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"question": "1", "answer": "1"}\n' * 100)[:30])
    assert "Check that the file is complete and that its extension is right." in refused(*training, "--task", file)


@pytest.mark.parametrize("where", ["training", "validation"])
def test_prompts_longer_than_the_context(refused, training, tmp_path, where):
    """Reported before the first step, wherever the long problems are."""
    file = tmp_path / "long.jsonl"
    rows = [{"question": "short", "answer": "1"}] * 30 + [
        {"question": "apples " * n, "answer": "1"} for n in (200, 250)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {"training": ["--task", file], "validation": ["--validation", file, "--validate-every", "1"]}[where]
    message = refused(*training, *flags)
    name = {"training": "the task", "validation": "validation"}[where]
    assert f"{name} has 2 of 32 prompts that do not fit" in message
    assert "the model's context of 256 has room for" in message
    assert "but problem 31 (the first is 0) has" in message and "remove rows 30, 31" in message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--group-size", "1"], "group_size is 1; the leave-one-out baseline needs at least 2 rollouts per problem"),
        (["--max-thought-steps", "0"], "max_thought_steps is 0; it must be at least 1"),
        (["--gamma", "-0.33"], "gamma is -0.33; it must be 0 (no noise) or a number below 100"),
        (["--gamma", "0"], "gamma is 0 with mode soft; thoughts without noise explore nothing"),
        (["--reward.right", "nan"], "right is nan; it must be a finite number"),
        (["--device", "toaster"], "device is 'toaster'; it must be auto, cpu, cuda or cuda:N"),
        (["--task", "gsm9k"], "task is 'gsm9k'; it must be one of arithmetic, arithmetic-long, gsm8k"),
        (["--task", "./none.jsonl"], "there is no file or folder './none.jsonl'"),
        (["--template", "Hello"], "template is 'Hello'; it has to say where the question goes: {question}"),
        (["--validate-every", "1"], "has no validation problems of its own; name some with --validation FILE"),
        (["--model", "/nowhere/model"], "model is '/nowhere/model', a folder that does not exist"),
    ],
)
def test_a_setting_that_is_wrong(refused, training, flags, message):
    assert message in refused(*training, *flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mode", "liquid"], "invalid choice 'liquid' for argument '--mode'"),
        (["--steps", "many"], "invalid literal for int"),
        (["--stepz", "3"], "Unrecognized options: --stepz"),
    ],
)
def test_flags_that_cannot_be_parsed(run, training, flags, message, tmp_path):
    """tyro reports these in a box of its own, with suggestions."""
    code, out, err = run(*training, *flags)
    assert (code, out) == (2, "")
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_file_named_after_a_built_in_task_is_a_file(refused, training, data_file):
    """A file called arithmetic.jsonl has no validation split of its own, and is graded like any file."""
    file = shutil.copy(data_file, data_file.with_name("arithmetic.jsonl"))
    message = refused(*training, "--task", file, "--validate-every", "1")
    assert "has no validation problems of its own" in message


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("*.safetensors", "holds no weights (*.safetensors)"),
        ("config.json", "has no config.json; it is not a Hugging Face model folder"),
        ("tokenizer*", "could not be loaded"),
    ],
)
def test_a_model_folder_that_is_incomplete(refused, training, model_folder, tmp_path, removed, message):
    folder = shutil.copytree(model_folder, tmp_path / "incomplete")
    for file in folder.glob(removed):
        file.unlink()
    assert message in refused(*training, "--model", folder)


def test_a_model_that_is_a_file(refused, training, data_file):
    assert "which is a file; give the folder" in refused(*training, "--model", data_file)


def test_an_output_that_is_taken(run, training, tmp_path, data_file):
    output = tmp_path / "run"
    assert run(*training)[0] == 0
    before = {p: p.read_bytes() for p in output.rglob("*") if p.is_file()}
    code, _, err = run(*training)
    assert code == 2
    assert err == (
        f"softtokens: output is '{output}', which already holds a run; give a new folder, or add --resume to "
        "continue that run\n"
    )
    code, _, err = run(*training, "--resume", "--seed", "7")
    assert code == 2
    assert "holds a run with another configuration (seed was 0, is 7)" in err
    assert {p: p.read_bytes() for p in output.rglob("*") if p.is_file()} == before

    code, _, err = run(*training, "--output", tmp_path)
    assert (code, "a folder that holds other files; give a new or empty folder" in err) == (2, True)
    code, _, err = run(*training, "--output", data_file)
    assert (code, "which is a file; give a folder" in err) == (2, True)
    code, _, err = run(*training, "--output", data_file / "run")
    assert (code, "which cannot be written: Not a directory" in err) == (2, True)


def test_mistakes_leave_no_run_behind(run, training, tmp_path):
    """After a wrong flag is corrected, the output folder is still free."""
    assert run(*training, "--model", "/nowhere/model")[0] == 2
    assert run(*training)[0] == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--settings", "hard"], "settings is 'hard'; it must be one of hard-greedy, hard-sample"),
        (["--samples", "0"], "samples is 0; it must be at least 1"),
        (["--gammas", "0"], "gammas is 0.0; it must be numbers above 0"),
        (["--models", "a=tiny", "a=tiny"], "models has 'a=tiny' more than once"),
        (["--models", "a=tiny", "a=x/y"], "models: 'tiny' and 'x/y' would both be named 'a'; give one another name"),
        (["--models", ".."], "no name can be made from '..'"),
        (["--texts", "/nowhere/texts.txt"], "texts is '/nowhere/texts.txt', which cannot be read"),
        (["--choices", "facts", "--choices-limit", "9999"], "count is 9999"),
        (["--split", "exam"], "split is 'exam'; the arithmetic task has train, validation, test"),
        (["--max-thought-steps", "100000"], "the model's context of"),
    ],
)
def test_evaluate_refuses(refused, model_folder, tmp_path, flags, message):
    task = ["--limit", "2", "--template", "{question}", "--output", tmp_path / "run"]
    assert message in refused("evaluate", "--device", "cpu", "--models", model_folder, *task, *flags)


@pytest.mark.parametrize(
    ("question", "flags", "message"),
    [
        ("", [], "question is empty"),
        ("\udcff", [], "half a surrogate pair"),
        ("apples " * 300, [], "the model's context of 256"),
        ("?", ["--setting", "warm"], "setting is 'warm'; it must be one of hard-greedy"),
        ("?", ["--template", "none"], "template is 'none'; it has to say where the question goes"),
        ("?", ["--seed", "-1"], "seed is -1"),
    ],
)
def test_generate_refuses(refused, model_folder, question, flags, message):
    flags = [*SHORT, "--template", "{question}", *flags]
    assert message in refused("generate", question, "--device", "cpu", "--model", model_folder, *flags)


def test_noise_on_more_logits_than_there_are(refused, training):
    message = refused(*training, "--mode", "soft", "--noise", "top-k", "--top-k", "100000")
    assert "top_k is 100000; it must be at most" in message


def test_a_tracker_that_is_not_installed(refused, training, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find(name, *rest))
    assert "softtokens[wandb]" in refused(*training, "--wandb", "project")


def test_a_run_whose_configuration_is_damaged(run, training, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text('{"output": ')
    code, _, err = run(*training, "--resume")
    assert code == 2 and "is damaged" in err and len(err.splitlines()) == 1
