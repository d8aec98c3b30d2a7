"""Two trainers on one folder: the second is told which process holds it, and changes nothing."""

import signal

from softtokens import cli
from train.test_resume import KILLED_WHILE, WAIT, contents


def test_the_second_trainer_is_sent_away(flags, tmp_path, start, wait_for, text_rewards, capsys):
    run, ready = tmp_path / "run", tmp_path / "ready"
    process = start(flags(run), WAIT.format(ready=str(ready)) + KILLED_WHILE["updating"])
    wait_for(ready.exists, process)
    before = contents(run)
    assert cli.main(flags(run, "--resume")) == 2
    error = capsys.readouterr().err
    assert f"output is {str(run)!r}, where process {process.pid} on " in error
    assert "is training; wait for it, end it, or give another folder" in error
    assert contents(run) == before
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert cli.main(flags(run, "--resume")) == 0  # the lock was released with the process


def test_a_lock_leaves_nothing_behind(flags, tmp_path, text_rewards):
    assert cli.main(flags(tmp_path / "run")) == 0
    assert not (tmp_path / "run/.trainer").exists()
