"""A run that was killed and resumed equals an uninterrupted one bit for bit."""

import json
import logging
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from softtokens import cli
from softtokens.models.hf import load_policy
from softtokens.tasks.prompt import MATH_TEMPLATE
from softtokens.train import loop

SHARD = "optimizer/shard-00001-model-00001-of-00001.safetensors"
WAIT = """
import time
from pathlib import Path
from softtokens.train import checkpoint, loop, step, tracking

def wait():
    Path({ready!r}).touch()
    time.sleep(600)
"""

# where to be killed: 8 steps, saved after 2, 4, 6, 8 (and 3, the first validation)
KILLED_WHILE = {
    "before-any-checkpoint": """
step.accumulate_gradient = lambda *a, **k: wait()
""",
    "saving": """
save = checkpoint._save_optimizer
def slow(weights, optimizer, folder):
    save(weights, optimizer, folder)
    if "step-000006" in str(folder):
        (shard,) = folder.iterdir()
        shard.write_bytes(shard.read_bytes()[:1000])
        wait()
checkpoint._save_optimizer = slow
""",
    "linking": """
point = checkpoint._point
checkpoint._point = lambda link, target: wait() if target == "step-000006" else point(link, target)
""",
    "linking-the-last-checkpoint": """
point = checkpoint._point
checkpoint._point = lambda link, target: wait() if target == "step-000008" else point(link, target)
""",
    "dropping-old-checkpoints": """
remove = checkpoint.shutil.rmtree
def half(folder, **options):
    if Path(folder).name == "step-000002":
        next(Path(folder).glob("model*")).unlink()
        wait()
    remove(folder, **options)
checkpoint.shutil.rmtree = half
""",
    "updating": """
accumulate, calls = step.accumulate_gradient, []
def slow(*arguments, **options):
    calls.append(1)
    return wait() if len(calls) == 6 else accumulate(*arguments, **options)
step.accumulate_gradient = slow
""",
    "logging": """
write = tracking.JsonLines.write
def half(lines, row):
    if row["step"] == 6 and "problem" in row:
        lines._file.write(b'{"step": 6, "prob')
        lines._file.flush()
        wait()
    write(lines, row)
tracking.JsonLines.write = half
""",
}


@pytest.fixture
def uninterrupted(flags, tmp_path, text_rewards):
    assert cli.main(flags(tmp_path / "uninterrupted")) == 0
    return tmp_path / "uninterrupted"


IN_EVERY_RUN = ("saving", "linking-the-last-checkpoint")
MOMENTS = [pytest.param(m, marks=() if m in IN_EVERY_RUN else pytest.mark.slow) for m in KILLED_WHILE]


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed(flags, tmp_path, start, wait_for, uninterrupted, moment):
    run, ready = tmp_path / "run", tmp_path / "ready"
    process = start(flags(run), WAIT.format(ready=str(ready)) + KILLED_WHILE[moment])
    wait_for(ready.exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert cli.main(flags(run, "--resume")) == 0
    assert_same_run(run, uninterrupted)
    assert not list((run / "checkpoints").glob(".saving*"))


def test_a_finished_run_resumes_to_itself(flags, uninterrupted):
    before = contents(uninterrupted)
    assert cli.main(flags(uninterrupted, "--resume")) == 0
    assert contents(uninterrupted) == before


def test_resume_of_nothing_starts(flags, tmp_path, uninterrupted):
    assert cli.main(flags(tmp_path / "run", "--resume")) == 0
    assert_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--learning-rate", "0.002"], "learning_rate was 0.001, is 0.002"),
        (["--steps", "7"], "holds a run of 8 steps, and steps is 7; a resumed run may only raise it"),
        (["--gamma", "0.5"], "thought.gamma was 0.33, is 0.5"),
    ],
)
def test_resume_with_another_configuration_is_refused(flags, uninterrupted, capsys, changed, message):
    before = contents(uninterrupted)
    assert cli.main(flags(uninterrupted, "--resume", *changed)) == 2
    assert message in capsys.readouterr().err
    assert contents(uninterrupted) == before


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("damage", ["model.safetensors", SHARD, "trainer.json", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(flags, tmp_path, uninterrupted, capsys, damage):
    run = tmp_path / "run"
    stop_after(run, flags, step=7)
    newest = run / "checkpoints/step-000006"
    if damage == "missing":
        (newest / "tokenizer.json").unlink()
    else:
        content = (newest / damage).read_bytes()
        (newest / damage).write_bytes(content[: len(content) // 2])
    capsys.readouterr()
    assert cli.main(flags(run, "--resume")) == 0
    error = capsys.readouterr().err
    assert f"warning: checkpoint {newest} is damaged" in error
    assert "using the one before it" in error
    assert_same_run(run, uninterrupted)


@pytest.mark.filterwarnings("default")
def test_a_run_whose_checkpoints_are_all_damaged_is_left_alone(flags, tmp_path, capsys):
    run = tmp_path / "run"
    stop_after(run, flags, step=7)
    for folder in (run / "checkpoints").glob("step-*"):
        (folder / "model.safetensors").write_bytes(b"")
    before = (run / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert cli.main(flags(run, "--resume")) == 2
    assert "are damaged; restore one, or give a new output folder" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_log_that_was_cut_behind_the_run_s_back_is_not_padded(flags, tmp_path, capsys):
    run = tmp_path / "run"
    stop_after(run, flags, step=7)
    (run / "metrics.jsonl").write_text("")
    capsys.readouterr()
    assert cli.main(flags(run, "--resume")) == 2
    assert "is shorter than when the checkpoint was saved" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == b""


def test_a_log_with_other_line_ends_is_not_cut_in_the_middle_of_a_line(flags, tmp_path, capsys):
    for name in ("metrics.jsonl", "samples.jsonl"):
        run = tmp_path / name.partition(".")[0]
        stop_after(run, flags, step=7)
        content = (run / name).read_bytes().replace(b"\n", b"\r\n")
        (run / name).write_bytes(content)
        capsys.readouterr()
        assert cli.main(flags(run, "--resume")) == 2
        assert f"{name} has other line ends, or other lines, than when" in capsys.readouterr().err
        assert (run / name).read_bytes() == content


@pytest.mark.parametrize("links", ["followed", "lost", "texts"])
def test_a_run_copied_without_its_links_goes_on(flags, tmp_path, uninterrupted, links):
    """By cp -L, by a tool that drops links, or by one that writes what they name into files."""
    stop_after(tmp_path / "original", flags, step=7)
    run = tmp_path / "run"
    shutil.copytree(tmp_path / "original", run, symlinks=links != "followed")
    for link in [run / "checkpoints" / name for name in ("last", "best")]:
        assert link.is_symlink() == (links != "followed")
        if links != "followed":
            target = link.readlink().name
            link.unlink()
            if links == "texts":
                link.write_text(target)
    assert load_policy(run).embedding_rms  # its best checkpoint is found
    assert cli.main(flags(run, "--resume")) == 0
    assert_same_run(run, uninterrupted)


def test_a_run_of_which_only_the_links_were_copied_is_left_alone(flags, tmp_path, capsys, text_rewards):
    stop_after(tmp_path / "original", flags, step=7)
    run = tmp_path / "run"
    shutil.copytree(tmp_path / "original", run)
    for folder in (run / "checkpoints").glob("step-*"):
        shutil.rmtree(folder)
    before = contents(run)
    capsys.readouterr()
    assert cli.main(flags(run, "--resume")) == 2
    assert "has last or best, but not the folder step-N" in capsys.readouterr().err
    assert contents(run) == before


def test_a_run_does_not_go_on_with_other_problems(flags, tmp_path, data_file, capsys, text_rewards):
    own = tmp_path / "own.jsonl"
    shutil.copy(data_file, own)
    assert cli.main(flags(tmp_path / "run", "--task", str(own))) == 0
    before = contents(tmp_path / "run")
    rows = own.read_text().splitlines(keepends=True)
    own.write_text("".join([rows[1], rows[0], *rows[2:]]))
    assert cli.main(flags(tmp_path / "run", "--task", str(own), "--resume")) == 2
    assert "holds a run on other problems: training had" in capsys.readouterr().err
    assert contents(tmp_path / "run") == before
    own.write_text("".join(rows))
    assert cli.main(flags(tmp_path / "run", "--task", str(own), "--resume")) == 0


def test_other_problems_in_the_file_of_validation_start_the_best_anew(flags, tmp_path, data_file, caplog, text_rewards):
    own = tmp_path / "own.jsonl"
    shutil.copy(data_file, own)
    validated = ("--validation", str(own), "--validate-every", "2")
    assert cli.main(flags(tmp_path / "run", *validated, "--steps", "4")) == 0
    rows = own.read_text().splitlines(keepends=True)
    own.write_text("".join([rows[1], rows[0], *rows[2:]]))
    assert cli.main(flags(tmp_path / "run", *validated, "--resume")) == 0
    assert (
        "the validation problems or best_by have changed; the choice of the best checkpoint starts again" in caplog.text
    )
    best = json.loads((tmp_path / "run/checkpoints/last/trainer.json").read_text())["best_step"]
    assert best in (6, 8)


@pytest.mark.parametrize(
    ("rows", "more", "template"),
    [
        ([{"prompt": "Tom has 4.", "answer": "4"}], [], "{question}"),
        ([{"question": "Tom has 4.", "answer": "4"}], [], MATH_TEMPLATE),
        ([{"question": "Tom has 4.", "prompt": "?", "answer": "4"}], ["--template", "Q {question}"], "Q {question}"),
    ],
)
def test_a_checkpoint_knows_the_template_that_was_used(tmp_path, model_folder, capsys, caplog, rows, more, template):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = ["--steps", "1", "--group-size", "2", "--max-thought-steps", "3", "--max-answer-tokens", "3"]
    run = ["--model", str(model_folder), "--output", str(tmp_path / "run"), "--validate-every", "0", "--device", "cpu"]
    assert cli.main(["train", "--task", str(file), *sizes, *run, *more]) == 0
    assert load_policy(tmp_path / "run").template == template
    with caplog.at_level(logging.INFO, logger="softtokens"):
        assert cli.main(["generate", "What?", "--model", str(tmp_path / "run"), "--max-thought-steps", "3"]) == 0
    assert ("so the question is used as the prompt" in caplog.text) == (template == "{question}")


def test_last_and_best_are_models_that_anything_loads(flags, tmp_path, text_rewards, monkeypatch):
    """best is the first of the best validations; last is the last step; a third one is kept in case of damage."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    accuracies = iter([0.25, 0.75, 0.75, 0.5])  # at steps 2, 4, 6, 8
    at_validation = []

    def validate(trainee, problems, judge):
        del problems, judge
        at_validation.append([p.detach().clone() for p in trainee.parameters])
        return {"validation/accuracy": next(accuracies), "validation/accuracy_error": 0.1}

    monkeypatch.setattr(loop, "validate", validate)
    run = tmp_path / "run"
    assert cli.main(flags(run, "--validate-every", "2")) == 0
    root = run / "checkpoints"
    assert sorted(p.name for p in root.glob("step-*")) == ["step-000004", "step-000006", "step-000008"]
    for link, step in (("best", 4), ("last", 8)):
        assert (root / link).is_symlink()
        assert (root / link).resolve() == (root / f"step-{step:06d}").resolve()
        model = AutoModelForCausalLM.from_pretrained(root / link)
        for ours, theirs in zip(at_validation[step // 2 - 1], model.parameters(), strict=True):
            assert torch.equal(ours, theirs)
    text = "User: Tom has 4 apples."
    tokenizer = AutoTokenizer.from_pretrained(root / "best")
    assert tokenizer.encode(text) == load_policy(root / "last").tokenizer.encode(text)
    assert lines(run / "metrics.jsonl")[3]["validation/accuracy"] == 0.75


def test_the_unit_of_noise_is_that_of_the_start(uninterrupted, model_folder):
    policy = load_policy(uninterrupted / "checkpoints/last")
    assert policy.embedding_rms == load_policy(model_folder).embedding_rms
    now = float(policy.vocabulary.table.detach().square().mean().sqrt())
    assert abs(now - policy.embedding_rms) > 1e-6  # the table has changed, the unit has not


def stop_after(run: Path, flags, *, step: int) -> None:
    """A run that ends in the middle, because its listener raises."""

    class Stop(RuntimeError):
        pass

    def listener(done, metrics):
        del metrics
        if done == step:
            raise Stop

    config, _ = cli.parse("train", flags(run)[1:])
    with pytest.raises(Stop):
        loop.train(config, listener=listener)


def assert_same_run(run: Path, expected: Path, *, links: tuple[str, ...] = ("last", "best"), kept: bool = True) -> None:
    assert without_times(run) == without_times(expected)
    steps = [line["step"] for line in lines(run / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
    assert (run / "samples.jsonl").read_bytes() == (expected / "samples.jsonl").read_bytes()
    for link in links:
        ours, theirs = run / "checkpoints" / link, expected / "checkpoints" / link
        assert ours.resolve().name == theirs.resolve().name
        assert_same_tensors(ours / "model.safetensors", theirs / "model.safetensors")
        assert_same_tensors(ours / SHARD, theirs / SHARD)
    if kept:
        names = [sorted(p.name for p in (r / "checkpoints").iterdir()) for r in (run, expected)]
        assert names[0] == names[1]


def assert_same_tensors(file: Path, expected: Path) -> None:
    ours, theirs = load_file(file), load_file(expected)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def without_times(run: Path) -> list[dict]:
    timed = ("time/", "tokens_per_second", "memory/")
    return [{k: v for k, v in line.items() if not k.startswith(timed)} for line in lines(run / "metrics.jsonl")]


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def number_of_lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def contents(run: Path) -> dict[str, bytes]:
    """All files except TensorBoard's, which have a new name each time."""
    files = (p for p in run.rglob("*") if p.is_file() and p.parent.name != "tensorboard" and p.name != ".lock")
    return {str(p.relative_to(run)): p.read_bytes() for p in files}
