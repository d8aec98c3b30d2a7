import subprocess
import sys

import pytest

from softtokens import __version__, cli

HEAVY = ("torch", "transformers", "datasets", "numpy", "tensorboard")


def modules_after(*arguments: str) -> set[str]:
    """Heavy modules that a command has imported, in a fresh process."""
    script = (
        "import sys\nfrom softtokens import cli\n"
        f"try:\n    code = cli.main({list(arguments)!r})\nexcept SystemExit as stop:\n    code = stop.code\n"
        f"print(code, *[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    code, *heavy = done.stderr.splitlines()[-1].split()
    assert code in ("0", "2"), done.stderr
    return set(heavy)


@pytest.mark.parametrize(
    "arguments", [("train", "--help"), ("train", "--dry-run"), ("train", "--group-size", "1")], ids=" ".join
)
def test_help_and_complaints_wait_for_no_heavy_library(arguments):
    assert modules_after(*arguments) == set()


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(run, command):
    code, out, err = run(command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: softtokens {command}")
    assert "--config FILE.toml" in out
    assert "--dry-run" in out
    assert "--output" in out or command in ("generate", "export", "replay-step")


def test_overview_names_every_command(run):
    code, out, _ = run("--help")
    assert code == 0
    assert all(f"  {name}" in out for name in cli.COMMANDS)
    assert run()[0] == 2  # no command given


def test_version(run):
    assert run("--version") == (0, f"softtokens {__version__}\n", "")


def test_console_script_exits_with_the_code():
    command = [sys.executable, "-m", "softtokens.cli", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        "softtokens: unknown command 'nonsense'; the commands are quickstart, train, plan, signal, evaluate, compare, "
        "report, export, replay-step, generate. See softtokens --help.\n"
    )
