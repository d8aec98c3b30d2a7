"""Imports point one way. The layers are written out here, so that a new arrow is a decision and not an accident."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import softtokens

PACKAGE = Path(softtokens.__file__).parent

# part of the package -> what it may import of the others
ALLOWED = {
    "types": set(),
    "endings": {"types"},
    "latex": set(),
    "files": {"types"},
    "ops": {"types"},
    "config": {"types"},
    "rewards": {"latex", "types"},
    "tasks": {"endings", "files", "latex", "types"},
    "models": {"endings", "files", "ops", "types"},
    "thoughts": {"config", "ops", "types"},
    "rollout": {"endings", "models", "ops", "thoughts", "types"},
    "task_setup": {"config", "files", "models", "rewards", "tasks", "types"},
    "ending_setup": {"config", "endings", "models", "tasks", "types"},
    "world": {"models", "types"},
}
ALLOWED["evaluate"] = {"config", "files", "models", "ops", "rewards", "rollout", "task_setup", "tasks", "thoughts"}
ALLOWED["evaluate"] |= {"ending_setup", "endings", "types", "world"}
ALLOWED["train"] = ALLOWED["evaluate"] | {"evaluate"}
# of evaluate only what needs no torch, see below
ALLOWED["report"] = {"config", "endings", "evaluate", "files", "types", ""}
ALLOWED["plan"] = {"config", "models", "ops", "rollout", "thoughts", "train", "types"}
ALLOWED["signal"] = ALLOWED["plan"] | {"rewards", "task_setup", "world"}
ALLOWED["cli"] = {*ALLOWED, ""}
ALLOWED[""] = set()  # softtokens/__init__.py, which loads names when they are used


def arrows(package: Path) -> set[tuple[str, str, str]]:
    """(file, importing part, imported part) for every import between two parts; local imports count too."""
    all_arrows = set()
    for file in sorted(package.rglob("*.py")):
        place = file.relative_to(package)
        part = place.parts[0].removesuffix(".py").removesuffix("__init__")
        for node in ast.walk(ast.parse(file.read_text())):
            all_arrows |= {(str(place), part, other) for other in _imported(node, place) if other != part}
    return all_arrows


def _imported(node: ast.AST, place: Path) -> set[str]:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        # `from softtokens import cli` names a part after the import
        inside = [f"{node.module}.{alias.name}" for alias in node.names]
        names = inside if node.module == "softtokens" else [node.module or ""]
    elif isinstance(node, ast.ImportFrom):
        base = ["softtokens", *place.parts[:-1]]
        base = base[: len(base) - node.level + 1]
        names = [".".join([*base, *([node.module] if node.module else [alias.name])]) for alias in node.names]
    else:
        return set()
    parts = [name.split(".") for name in names if name.split(".")[0] == "softtokens"]
    return {p[1] if len(p) > 1 and not p[1].startswith("__") else "" for p in parts}


def upward(package: Path) -> list[str]:
    return [
        f"{file}: {part or 'softtokens'} imports {other or 'softtokens'}"
        for file, part, other in sorted(arrows(package))
        if other not in ALLOWED[part]
    ]


def test_imports_point_one_way():
    assert upward(PACKAGE) == []


def test_every_part_is_written_out():
    parts = {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert parts - {"__init__"} <= ALLOWED.keys()


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("ops/mixture.py", "from softtokens.rollout.decode import Limits"),
        ("types.py", "import softtokens.config"),
        ("rewards/exact.py", "from softtokens import tasks"),
        ("tasks/gsm8k.py", "from ..rewards import grader"),
        ("rollout/record.py", "def later():\n    from softtokens.train.loop import train"),
        ("evaluate/passk.py", "from softtokens.train import objective"),
        ("config/train.py", "from .. import thoughts"),
        ("thoughts/hard.py", "import softtokens"),
    ],
)
def test_an_upward_arrow_is_found(tmp_path, file, line):
    """The check fails when it is broken on purpose."""
    planted = tmp_path / file
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(f"{(PACKAGE / file).read_text()}\n{line}\n")
    assert len(upward(tmp_path)) == 1
    assert upward(tmp_path)[0].startswith(f"{file}: ")


def test_report_takes_of_evaluate_only_what_needs_no_torch():
    """Reports are built where torch is missing; the rest of evaluate needs it."""
    lines = [line for file in (PACKAGE / "report").glob("*.py") for line in file.read_text().splitlines()]
    taken = {line.split()[1] for line in lines if "import" in line and "softtokens.evaluate" in line}
    assert taken == {f"softtokens.evaluate.{name}" for name in ("folder", "intervals", "passk")}


def test_results_and_comparisons_are_read_without_torch():
    script = "import sys, softtokens.cli.tables, softtokens.evaluate.compare; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize("module", ["torch", "transformers", "datasets", "numpy"])
def test_configuration_knows_no_heavy_library(module):
    config = [str(file.relative_to(PACKAGE)) for file in (PACKAGE / "config").glob("*.py")]
    for name in (*config, "cli/entry.py", "cli/commands.py", "files.py", "types.py", "__init__.py"):
        tree = ast.parse((PACKAGE / name).read_text())
        imports = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert not any(module in line.split() for line in imports), name
