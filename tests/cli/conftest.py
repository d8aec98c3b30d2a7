from __future__ import annotations

import json
from pathlib import Path

import pytest

from softtokens import cli


@pytest.fixture(scope="session")
def model_folder(make_policy, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_policy("llama-untied").save(folder)
    return folder


@pytest.fixture
def data_file(tmp_path) -> Path:
    file = tmp_path / "problems.jsonl"
    rows = [{"question": "Tom has 4 apples.", "answer": "4"}, {"question": "3", "answer": "3"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def run(capsys):
    """Run the command line in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int | str | None, str, str]:
        capsys.readouterr()
        code: int | str | None
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:  # tyro exits by itself
            code = stop.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run
