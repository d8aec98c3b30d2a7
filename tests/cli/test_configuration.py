"""Defaults, then a TOML file, then flags; and --dry-run shows the result."""

import dataclasses
import json

import pytest

from softtokens import cli
from softtokens.config import GenerateConfig, QuickstartConfig, ReportConfig, TrainConfig
from softtokens.configfile import from_dict
from softtokens.evaluateconfig import CompareConfig, EvaluateConfig

DEFAULTS = {"train": TrainConfig(), "evaluate": EvaluateConfig(), "quickstart": QuickstartConfig()}


REQUIRED = {"generate": GenerateConfig("runs/eval"), "compare": CompareConfig("runs/eval")}
REQUIRED["report"] = ReportConfig(("runs/eval",))


@pytest.mark.parametrize("command", [*DEFAULTS, *REQUIRED])
def test_dry_run_prints_json_that_is_the_configuration(run, command):
    arguments = ["runs/eval"] if command in REQUIRED else []
    code, out, err = run(command, "--dry-run", *arguments)
    assert (code, err) == (0, "")
    expected = (DEFAULTS | REQUIRED)[command]
    assert from_dict(type(expected), json.loads(out)) == expected


def test_file_over_defaults_and_flags_over_file(run, tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('steps = 7\ngroup_size = 4\n[thought]\nmode = "fuzzy"\ngamma = 0.1\n')
    config, dry = cli.parse("train", ["--config", str(file), "--steps", "9", "--gamma", "0.2"])
    assert not dry
    thought = dataclasses.replace(TrainConfig().thought, mode="fuzzy", gamma=0.2)
    assert config == dataclasses.replace(TrainConfig(), steps=9, group_size=4, thought=thought)


def test_what_dry_run_prints_is_a_run_again(run, tmp_path):
    """The resolved configuration of any run, read back, resolves to itself."""
    flags = ["--steps", "3", "--mode", "hard", "--tau", "0.7", "--limit", "5"]
    first = json.loads(run("train", "--dry-run", *flags)[1])
    file = tmp_path / "again.toml"
    tables = {name: value for name, value in first.items() if isinstance(value, dict)}
    plain = {name: value for name, value in first.items() if name not in tables}
    text = "".join(f"{k} = {json.dumps(v)}\n" for k, v in plain.items() if v is not None)
    for name, table in tables.items():
        text += f"[{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in table.items() if v is not None)
    file.write_text(text)
    assert json.loads(run("train", "--dry-run", "--config", file)[1]) == first


def test_lists_and_switches(run):
    flags = ["--settings", "hard-greedy", "soft-sample", "--gammas", "0.1", "1", "--models", "tiny", "hard=runs/hard"]
    config = json.loads(run("evaluate", "--dry-run", *flags)[1])
    assert config["settings"] == ["hard-greedy", "soft-sample"]
    assert config["gammas"] == [0.1, 1.0]
    assert config["models"] == ["tiny", "hard=runs/hard"]
    assert json.loads(run("train", "--dry-run", "--resume")[1])["resume"] is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 3", "stepz: unknown key; the keys here are answer_temperature, answer_weight, beta1"),
        ("[thought]\nmodus = 'soft'", "thought.modus: unknown key; the keys here are estimator, gamma, mode"),
        ("steps = 'many'", "steps is 'many'; it must be a whole number"),
        ("group_size = 1", "group_size is 1; the leave-one-out baseline needs at least 2"),
        ("steps = [", "is not valid TOML"),
    ],
)
def test_a_file_that_is_wrong(run, tmp_path, text, message):
    file = tmp_path / "run.toml"
    file.write_text(text)
    code, out, err = run("train", "--config", file)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_file_that_is_missing(run, tmp_path):
    code, _, err = run("train", "--config", tmp_path / "none.toml")
    assert code == 2
    assert err == f"softtokens: config is '{tmp_path}/none.toml', which cannot be read: No such file or directory\n"


def test_config_without_a_name(run):
    assert run("train", "--config") == (2, "", "softtokens: --config needs the name of a TOML file\n")
