"""Defaults, then a TOML file, then flags; and --dry-run shows the result."""

import dataclasses
import json

import pytest

from softtokens import cli
from softtokens.config.commands import GenerateConfig, QuickstartConfig, ReportConfig
from softtokens.config.evaluate import CompareConfig, EvaluateConfig
from softtokens.config.toml import from_dict
from softtokens.config.train import TrainConfig

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


# per command: its required flags, a file that sets something, and the expected value
FILES = {
    "quickstart": ([], "problems = 7", ("problems", 7)),
    "train": ([], "steps = 7", ("steps", 7)),
    "plan": ([], "processes = 7", ("processes", 7)),
    "signal": ([], "batches = 7", ("batches", 7)),
    "evaluate": ([], "samples = 7", ("samples", 7)),
    "compare": (["runs/eval"], 'against = "base"', ("against", "base")),
    "report": (["runs/a", "runs/b"], "watch = true", ("watch", True)),
    "export": (["runs/a", "out"], 'dtype = "bfloat16"', ("dtype", "bfloat16")),
    "replay-step": (["case"], "rows = 7", ("rows", 7)),
    "generate": (["a question"], "samples = 7", ("samples", 7)),
}


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_takes_a_file(run, tmp_path, command):
    required, text, (name, value) = FILES[command]
    file = tmp_path / "settings.toml"
    file.write_text(text)
    code, out, err = run(command, *required, "--config", file, "--dry-run")
    assert (code, err) == (0, "")
    assert json.loads(out)[name] == value


def test_a_file_can_give_what_a_command_requires(run, tmp_path):
    file = tmp_path / "compare.toml"
    file.write_text('evaluation = "runs/eval"\n')
    # a positional argument stays positional; the file gives the default that the command line may repeat
    assert json.loads(run("compare", "--config", file, "--dry-run")[1])["evaluation"] == "runs/eval"


def test_later_files_win_and_flags_win_over_all(run, tmp_path):
    texts = ["steps = 1\ngroup_size = 4\n[thought]\ngamma = 0.1\ntau = 0.2\n", "steps = 2\n[thought]\ngamma = 0.3\n"]
    files = [tmp_path / f"{i}.toml" for i in range(2)]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    flags = [part for file in files for part in ("--config", str(file))]
    config, _ = cli.parse("train", [*flags, "--tau", "0.4"])
    assert (config.steps, config.group_size) == (2, 4)
    assert (config.thought.gamma, config.thought.tau) == (0.3, 0.4)


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("[scale]\nlora_alpha = 8\n", ["--lora-rank", "16"]),
        ("[thought]\ngamma = 0.0\n", ["--mode", "hard"]),
        ("group_size = 1\n", ["--group-size", "2"]),
    ],
)
def test_a_file_that_needs_a_flag_to_be_valid(run, tmp_path, text, flags):
    file = tmp_path / "half.toml"
    file.write_text(text)
    assert run("train", "--config", file, *flags, "--dry-run")[0] == 0
    assert run("train", "--config", file, "--dry-run")[0] == 2


def test_a_file_saved_by_an_editor_of_windows(run, tmp_path):
    file = tmp_path / "bom.toml"
    file.write_bytes(b"\xef\xbb\xbfsteps = 3\r\n")
    assert json.loads(run("train", "--config", file, "--dry-run")[1])["steps"] == 3


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
        (
            "stepz = 3",
            "stepz: unknown key; the keys here are answer_temperature, answer_weight, antithetic, best_by, beta1",
        ),
        ("[thought]\nmodus = 'soft'", "thought.modus: unknown key; the keys here are concentration, estimator"),
        ("steps = 'many'", "steps is 'many'; it must be a whole number"),
        ("steps = true", "steps is True; it must be a whole number"),
        ("resume = 1", "resume is 1; it must be true or false"),
        ("learning_rate = 'x'", "learning_rate is 'x'; it must be a number"),
        ("thought = 'soft'", "thought is 'soft'; it must be a table"),
        ("[scale]\nlora_targets = 'q'", "scale.lora_targets is 'q'; it must be a list"),
        ("[scale]\nlora_targets = [1]", "scale.lora_targets is [1]; every item of the list must be a text"),
        ("wandb = 3", "wandb is 3; it must be a text"),
        ("[thought]\nmode = 'loud'", "mode is 'loud'; it must be one of hard, soft, fuzzy"),
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
