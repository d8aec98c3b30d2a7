"""The package as it is installed from a wheel, away from the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_trains_and_reports_in_another_folder(tmp_path):
    pytest.importorskip("setuptools")  # builds the wheel without the network
    source = tmp_path / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", tmp_path, source], check=True, timeout=120)
    (wheel,) = tmp_path.glob("softtokens-*.whl")
    assert wheel.stat().st_size < 8e6
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        assert "softtokens/py.typed" in archive.namelist()

    def run(*arguments: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True, timeout=120
        )
        return done.stdout

    assert str(tmp_path / "site") in run("-c", "import softtokens; print(softtokens.__file__)")
    flags = "--steps 1 --group-size 4 --validate-every 0 --device cpu --max-thought-steps 8 --output run"
    run("-m", "softtokens.cli", "train", *flags.split())
    run("-m", "softtokens.cli", "report", "run", "--output", "page.html")
    assert "run" in (tmp_path / "page.html").read_text() and (tmp_path / "page.html").stat().st_size > 300_000
