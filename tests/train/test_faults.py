"""A run that is killed at dozens of random moments is in the end the run that was not, bit for bit.

The number of kills can be set: FAULTS=200 python -m pytest -m slow tests/train/test_faults.py -s
"""

import json
import os
import subprocess
import sys

import pytest

from softtokens import cli
from train import driver, faults
from train.test_resume import assert_same_run

KILLS = int(os.environ.get("FAULTS", 30))


@pytest.mark.slow
@pytest.mark.timeout(60 + 20 * KILLS)
def test_killed_at_random_moments_of_every_phase(flags, tmp_path, text_rewards):
    longer = ("--steps", str(6 * KILLS), "--save-every", "2", "--validate-every", "3")
    run, whole = tmp_path / "run", tmp_path / "whole"
    done = subprocess.run(
        [sys.executable, faults.__file__, str(KILLS), "0", *flags(run, *longer)],
        capture_output=True,
        text=True,
        env=driver.ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kills = json.loads(done.stdout.splitlines()[-1])
    print("\n".join(f"{phase:<28}{number:>5}" for phase, number in kills.items()))
    assert sum(kills.values()) == KILLS
    assert min(kills.values()) >= KILLS // len(faults.PHASES)
    assert cli.main(flags(whole, *longer)) == 0
    assert_same_run(run, whole)
