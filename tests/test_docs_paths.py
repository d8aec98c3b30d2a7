"""docs/paper.md names files, tests and flags that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from softtokens import cli

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
CODE = re.findall(r"`([^`]+)`", PAGE)
PATHS = [text for text in CODE if re.match(r"(src|tests|recipes|examples|docs|benchmarks)/", text)]


def test_every_file_and_test_exists():
    missing = []
    for text in PATHS:
        name, _, test = text.partition("::")
        file = ROOT / name
        if not file.is_file() or (test and f"\ndef {test}(" not in file.read_text(encoding="utf-8")):
            missing.append(text)
    assert len(PATHS) > 80 and not missing


def test_every_row_names_a_file_and_a_test():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| in the paper")]
    assert len(rows) > 40
    assert [row for row in rows if not re.search(r"\| `(src|recipes)/\S+`.* \| `tests/\S+::\w+` \|$", row)] == []


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_every_flag_exists(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    help_text = capsys.readouterr().out
    texts = [text for text in CODE if text.startswith("--" if command == "train" else f"{command} --")]
    flags = {flag for text in texts for flag in re.findall(r"--[\w.-]+", text)}
    assert len(flags) > 4
    assert sorted(flag for flag in flags if not re.search(rf"{re.escape(flag)}[^\w.-]", help_text)) == []
