"""A full disk ends a run with a clear message, and saved checkpoints stay intact."""

import pytest

from softtokens import cli
from softtokens.models.hf import load_policy
from softtokens.train.checkpoint import newest_checkpoint

LIMIT = """
import resource
from softtokens.train import checkpoint

def limit_files_to(size):  # in bytes; a write beyond it fails as one on a full disk does
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
"""
FULL_WHILE = {
    "saving-weights": """
save = loop.save_checkpoint
def full(run, weights, optimizer, progress):
    if progress.step == 6:
        limit_files_to(50_000)
    return save(run, weights, optimizer, progress)
loop.save_checkpoint = full
""",
    "saving-the-optimizer": """
save = checkpoint._save_optimizer
def full(weights, optimizer, folder):
    if "step-000006" in str(folder):
        limit_files_to(20_000)
    save(weights, optimizer, folder)
checkpoint._save_optimizer = full
""",
    "logging": """
step = loop.train_step
def full(trainee, number):
    if number == 5:
        limit_files_to(10)
    return step(trainee, number)
loop.train_step = full
""",
}


MOMENTS = [pytest.param(m, marks=pytest.mark.slow if m == "saving-weights" else ()) for m in FULL_WHILE]


@pytest.mark.parametrize("moment", MOMENTS)
def test_disk_full(flags, tmp_path, start, text_rewards, moment):
    pytest.importorskip("resource", reason="file size limits are a thing of Unix")
    run = tmp_path / "run"
    process = start(flags(run), LIMIT + FULL_WHILE[moment])
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1, error
    assert "Traceback" not in error
    assert all(line.startswith("softtokens: ") and "File too large" in line for line in error.strip().splitlines())
    if moment != "logging":  # there TensorBoard's thread may report it too
        assert len(error.strip().splitlines()) == 1, error
        assert f"checkpoint {run}/checkpoints/step-000006 could not be saved" in error
        assert "Earlier checkpoints are untouched; make room and resume" in error

    newest, progress = newest_checkpoint(run)
    assert progress.step == 4
    assert load_policy(newest).tokenizer is not None
    assert (run / "checkpoints/last").resolve() == newest.resolve()
    assert not list((run / "checkpoints").glob(".saving*"))
    assert cli.main(flags(run, "--resume")) == 0  # there is room again
    assert newest_checkpoint(run)[1].step == 8
