"""~ and environment variables are expanded wherever a user gives a path; files are written atomically."""

import json
import os
import shutil

import pytest

from softtokens import cli
from softtokens.config.commands import ReportConfig
from softtokens.config.train import TrainConfig
from softtokens.evaluate.named_sources import named_sources
from softtokens.evaluate.preservation import load_texts
from softtokens.files import expanded, write_atomically, write_json
from softtokens.models.files import tiny_checkpoint
from softtokens.models.hf import load_policy
from softtokens.report.build import place
from softtokens.tasks import load_problems

ROWS = [{"question": f"{i} + 1?", "answer": str(i + 1)} for i in range(3)]


@pytest.fixture(params=["~", "$DATA", "${DATA}"])
def home(request, tmp_path, monkeypatch):
    """Another name for a folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", str(tmp_path))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return request.param


def test_what_is_no_path_stays_as_it_is():
    for name in ("tiny", "owner/name", "./rows.jsonl", "", "a~b", "$UNSET_VARIABLE/x"):
        assert expanded(name) == name


def test_models_tasks_and_texts_are_found(home, tmp_path):
    shutil.copytree(tiny_checkpoint(), tmp_path / "model")
    assert load_policy(f"{home}/model").eos_ids
    assert len(load_problems(f"{home}/rows.jsonl")) == 3
    assert len(load_problems("gsm8k", path=f"{home}/rows.jsonl")) == 3
    (tmp_path / "texts.txt").write_text("one\ntwo\n")
    assert load_texts(f"{home}/texts.txt") == ["one", "two"]
    assert named_sources("models", [f"{home}/model", f"b={home}/model"]) == dict.fromkeys(
        ("model", "b"), str(tmp_path / "model")
    )
    assert place(ReportConfig((f"{home}/run",))) == tmp_path / "run/report.html"
    assert place(ReportConfig((f"{home}/run",), output=f"{home}/page.html")) == tmp_path / "page.html"


def test_a_whole_life_of_a_run(home, tmp_path):
    """All settings come from one TOML file, where no shell expands anything."""
    (tmp_path / "train.toml").write_text(
        f'output = "{home}/runs/a"\nvalidation = "{home}/rows.jsonl"\nsteps = 1\ngroup_size = 2\n'
        f'max_thought_steps = 4\nmax_answer_tokens = 4\n[task]\nname = "{home}/rows.jsonl"\n'
    )
    (tmp_path / "evaluate.toml").write_text(
        f'models = ["a={home}/runs/a"]\nsettings = ["hard-greedy", "soft-greedy"]\n'
        f'output = "{home}/eval"\nmax_thought_steps = 4\n'
        f'[task]\nname = "{home}/rows.jsonl"\n'
    )
    assert cli.main(["train", f"--config={home}/train.toml"]) == 0
    assert (tmp_path / "runs/a/checkpoints/best").is_dir()
    assert cli.main(["evaluate", f"--config={home}/evaluate.toml"]) == 0
    entry = json.loads((tmp_path / "eval/evaluation.json").read_text())["models"][0]
    assert entry["path"] == str(tmp_path / "runs/a") and entry["trained"]["steps"] == 1
    flags = ["--against", "hard-greedy", f"--output={home}/compared.json"]
    assert cli.main(["compare", f"{home}/eval", *flags]) == 0 and (tmp_path / "compared.json").is_file()
    assert cli.main(["export", f"{home}/runs/a", f"{home}/exported"]) == 0
    assert (tmp_path / "exported/config.json").is_file()
    assert cli.main(["report", f"{home}/runs"]) == 0 and (tmp_path / "runs/report.html").is_file()


def test_a_configuration_file_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbfsteps = 7\n")
    config, _ = cli.parse("train", ["--config", str(tmp_path / "bom.toml")])
    assert config == TrainConfig(steps=7)


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "new/folder/file.txt"
    write_atomically(file, "old")
    with monkeypatch.context() as patch:
        patch.setattr("softtokens.files.os.fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(file, "new")
    assert [path.name for path in file.parent.iterdir()] == ["file.txt"] and file.read_text() == "old"
    write_atomically(file, "new \ud800")
    assert file.read_text() == "new ?"


def full_disk(descriptor):
    raise OSError(28, "No space left on device")


def test_a_file_and_its_name_reach_the_disk(tmp_path, monkeypatch):
    written, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: written.append(os.fstat(descriptor).st_ino) or fsync(descriptor)
    )
    monkeypatch.setattr(os, "replace", lambda source, to: written.append("renamed") or replace(source, to))
    write_atomically(tmp_path / "file", "text")
    assert written == [(tmp_path / "file").stat().st_ino, "renamed", tmp_path.stat().st_ino]


def test_numbers_that_are_not_finite_become_null(tmp_path):
    write_json(tmp_path / "file.json", {"a": [1.5, float("nan"), (float("inf"),)], "b": {"c": -float("inf")}})
    assert json.loads((tmp_path / "file.json").read_text()) == {"a": [1.5, None, [None]], "b": {"c": None}}
