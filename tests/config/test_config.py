"""What configurations reject and with which message, and how they are read from plain data."""

import ast
import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from softtokens import config
from softtokens.config.commands import GenerateConfig, QuickstartConfig
from softtokens.config.evaluate import CompareConfig, EvaluateConfig
from softtokens.config.scale import ScaleConfig
from softtokens.config.signal import SignalConfig
from softtokens.config.task import TaskConfig
from softtokens.config.thought import PAPER_SETTINGS, ThoughtConfig
from softtokens.config.toml import from_dict, load_defaults
from softtokens.config.train import RewardConfig, TrainConfig
from softtokens.types import UserError, Verdict

COMMANDS = [TrainConfig, EvaluateConfig, CompareConfig, GenerateConfig, QuickstartConfig, SignalConfig]
REQUIRED = {GenerateConfig: "1 + 1?", CompareConfig: "runs/eval"}  # value of the first field, where it is required
NAN, INFINITY = float("nan"), float("inf")

REFUSED = [
    (ThoughtConfig, {"mode": "liquid"}, "mode is 'liquid'; it must be one of hard, soft, fuzzy"),
    (ThoughtConfig, {"tau": 0.0}, "tau is 0.0; it must be a number above 0"),
    (ThoughtConfig, {"tau": NAN}, "tau is nan"),
    (ThoughtConfig, {"gamma": -0.1}, "gamma is -0.1; it must be 0 (no noise) or a number below 100; the paper"),
    (ThoughtConfig, {"gamma": NAN}, "gamma is nan"),
    (ThoughtConfig, {"noise": "attention"}, "noise is 'attention'; it must be one of input, hidden, logits, top-k"),
    (ThoughtConfig, {"top_k": 0}, "top_k is 0; it must be at least 1"),
    (ThoughtConfig, {"estimator": "magic"}, "estimator is 'magic'; it must be one of replay, density"),
    (ThoughtConfig, {"estimator": "density", "noise": "hidden"}, "Use estimator replay"),
    (ThoughtConfig, {"table_in_mean": "thawed"}, "table_in_mean is 'thawed'; it must be one of frozen, trained"),
    (TaskConfig, {"limit": 0}, "limit is 0; it must be at least 1, or omitted for all"),
    (TaskConfig, {"grader": "human"}, "grader is 'human'; it must be one of None, exact, math"),
    (RewardConfig, {"right": NAN}, "reward.right is nan; it must be a finite number"),
    (RewardConfig, {"none": -INFINITY}, "reward.none is -inf; it must be a finite number"),
    (TrainConfig, {"steps": 0}, "steps is 0; it must be at least 1"),
    (TrainConfig, {"problems_per_step": 0}, "problems_per_step is 0"),
    (TrainConfig, {"group_size": 1}, "group_size is 1; the leave-one-out baseline needs at least 2 rollouts per"),
    (TrainConfig, {"group_size": 10**9}, "group_size 1,000,000,000, which makes 2,000,000,000 rollouts a step"),
    (TrainConfig, {"problems_per_step": 10**11}, "problems_per_step is 100,000,000,000 and group_size 32, which makes"),
    (TrainConfig, {"max_thought_steps": 0}, "max_thought_steps is 0; it must be at least 1"),
    (TrainConfig, {"max_answer_tokens": 0}, "max_answer_tokens is 0; it must be at least 1"),
    (TrainConfig, {"tokens_per_backward": 0}, "tokens_per_backward is 0; it must be at least 1"),
    (TrainConfig, {"save_every": 0}, "save_every is 0; it must be at least 1"),
    (TrainConfig, {"validate_every": -1}, "validate_every is -1; it must be 0 or more"),
    (TrainConfig, {"validation_problems": 0}, "validation_problems is 0; it must be at least 1"),
    (TrainConfig, {"warmup_steps": -1}, "warmup_steps is -1; it must be 0 or more"),
    (TrainConfig, {"term_norms_every": -1}, "term_norms_every is -1; it must be 0 or more"),
    (TrainConfig, {"signal_every": -1}, "signal_every is -1; it must be 0 or more"),
    (TrainConfig, {"signal_every": 10, "problems_per_step": 1}, "give at least 2 problems, or signal_every 0"),
    (SignalConfig, {"batches": 1}, "batches is 1; it must be at least 3"),
    (SignalConfig, {"sketch": 63}, "sketch is 63; it must be at least 64"),
    (SignalConfig, {"memory": 0.0}, "memory is 0.0; it must be a positive number of GB"),
    (SignalConfig, {"modes": ("liquid",)}, "modes is 'liquid'; it must be one of hard, soft, fuzzy"),
    (SignalConfig, {"modes": ("soft", "soft")}, "modes is ('soft', 'soft'); it must be values that all differ"),
    (SignalConfig, {"taus": (0.0,)}, "taus is 0.0; it must be numbers above 0"),
    (SignalConfig, {"gammas": (0.33, 0.0)}, "thoughts without noise have no log-probability, so no gradient"),
    (SignalConfig, {"modes": ("hard",), "gammas": (0.5,)}, "soft and fuzzy are not among the modes"),
    (SignalConfig, {"thought": ThoughtConfig(tau=0.1), "modes": ("soft",)}, "Give --taus instead"),
    (TrainConfig, {"clip_norm": -1.0}, "clip_norm is -1.0; it must be 0 or more"),
    (TrainConfig, {"clip_norm": NAN}, "clip_norm is nan; it must be 0 or more"),
    (TrainConfig, {"clip": "none"}, "clip is 'none'; it must be one of sum, each"),
    (TrainConfig, {"weight_decay": -0.1}, "weight_decay is -0.1; it must be in 0 .. 1"),
    (TrainConfig, {"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0 and below 1"),
    (TrainConfig, {"learning_rate": NAN}, "learning_rate is nan"),
    (TrainConfig, {"beta2": 1.0}, "beta2 is 1.0; it must be in 0 .. 1, below 1"),
    (TrainConfig, {"thought_weight": -1.0}, "thought_weight is -1.0; it must be 0 or more"),
    (TrainConfig, {"answer_weight": INFINITY}, "answer_weight is inf; it must be 0 or more"),
    (TrainConfig, {"answer_temperature": 0.0}, "greedy answers have no log-probability to train on"),
    (ScaleConfig, {"parallel": "tp"}, "parallel is 'tp'; it must be one of auto, ddp, fsdp, hsdp"),
    (ScaleConfig, {"lora_rank": -1}, "lora_rank is -1; it must be 0 (no adapters) or more"),
    (ScaleConfig, {"lora_alpha": 8.0}, "but lora_rank is 0; give a rank such as 16"),
    (ScaleConfig, {"lora_rank": 4, "lora_alpha": 0.0}, "lora_alpha is 0.0; it must be a positive number"),
    (TrainConfig, {"max_skipped": 0}, "max_skipped is 0; it must be at least 1"),
    (TrainConfig, {"keep_repro": -1}, "keep_repro is -1; it must be 0 (none) or more"),
    (TrainConfig, {"spike_norm": 0.0}, "spike_norm is 0.0; it must be a positive number"),
    (ScaleConfig, {"dtype": "float16"}, "dtype is 'float16'; it must be one of float32, bfloat16"),
    (TrainConfig, {"seed": -1}, "seed is -1; it must be in 0 .. 2**63 - 1"),
    (TrainConfig, {"seed": 2**63}, "it must be in 0 .. 2**63 - 1"),
    (TrainConfig, {"thought": ThoughtConfig(gamma=0.0)}, "gamma is 0 with mode soft; thoughts without noise explore"),
    (EvaluateConfig, {"settings": ()}, "settings is empty; it must be one or more of hard-greedy"),
    (EvaluateConfig, {"settings": ("hard",)}, "settings is 'hard'; it must be one of hard-greedy, hard-sample"),
    (EvaluateConfig, {"samples": 0}, "samples is 0; it must be at least 1"),
    (EvaluateConfig, {"choices_limit": 0}, "choices_limit is 0; it must be 1 or more"),
    (EvaluateConfig, {"rows_per_batch": 0}, "rows_per_batch is 0; it must be 1 or more"),
    (EvaluateConfig, {"memory": 0.0}, "memory is 0.0; it must be a positive number of GB"),
    (EvaluateConfig, {"memory": NAN}, "memory is nan"),
    (EvaluateConfig, {"profile": -1}, "profile is -1; it must be 0 or more"),
    (EvaluateConfig, {"models": ()}, "models is empty; it must be one or more"),
    (EvaluateConfig, {"models": ("a", "b", "a")}, "models has 'a' more than once; list each once"),
    (EvaluateConfig, {"settings": ("hard-sample",) * 2}, "settings has 'hard-sample' more than once"),
    (EvaluateConfig, {"temperatures": (0.6, 0.6)}, "temperatures has 0.6 more than once"),
    (EvaluateConfig, {"temperatures": (0.0,)}, "temperatures is 0.0; it must be numbers above 0"),
    (EvaluateConfig, {"gammas": (0.0,)}, "gammas is 0.0; it must be numbers above 0 and below 100; the paper"),
    (EvaluateConfig, {"gammas": ()}, "gammas is empty"),
    (EvaluateConfig, {"taus": (NAN,)}, "taus is nan"),
    (EvaluateConfig, {"taus": (0.1,), "settings": ("hard-sample",)}, "taus is given, but none of the settings uses it"),
    (EvaluateConfig, {"harness_tasks": "here"}, "harness_tasks is given without harness"),
    (EvaluateConfig, {"base": "tiny"}, "base is 'tiny' without texts"),
    (CompareConfig, {"evaluation": "x", "metrics": ()}, "metrics is empty"),
    (CompareConfig, {"evaluation": "x", "metrics": ("pass@0",)}, "metrics is 'pass@0'; it must be pass@K, maj@K"),
    (EvaluateConfig, {"seed": -1}, "seed is -1"),
    (GenerateConfig, {"question": "?", "setting": "soft"}, "setting is 'soft'; it must be one of hard-greedy"),
    (GenerateConfig, {"question": "?", "samples": 0}, "samples is 0; it must be at least 1"),
    (GenerateConfig, {"question": "?", "seed": -1}, "seed is -1"),
    (QuickstartConfig, {"steps": 0}, "steps is 0; it must be at least 1, or omitted"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "values", "message"), REFUSED, ids=lambda x: x if isinstance(x, str) else "")
def test_refused_in_words(kind, values, message):
    with pytest.raises(UserError) as error:
        kind(**values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_fine():
    TrainConfig(thought=ThoughtConfig(mode="hard", gamma=0.0))  # tokens have no noise
    TrainConfig(thought_weight=0.0, clip_norm=0.0, validate_every=0, term_norms_every=0, warmup_steps=0)
    EvaluateConfig(dtype="bfloat16", settings=PAPER_SETTINGS[:1], samples=1)
    EvaluateConfig(temperatures=(0.2, 1.0), gammas=(1.0,), taus=(0.1,))
    CompareConfig("runs/eval", metrics=("pass@1", "maj@32", "nll_per_token"))


def test_the_temperature_is_that_of_the_mode_unless_given():
    modes = {mode: ThoughtConfig(mode=mode).temperature for mode in ("hard", "soft", "fuzzy")}
    assert modes == {"hard": 1.0, "soft": 0.5, "fuzzy": 1e-4}
    assert ThoughtConfig(mode="fuzzy", tau=0.1).temperature == 0.1


def test_configurations_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().steps = 3


def test_every_field_is_explained():
    """The docstring under a field is its help text."""
    files = Path(config.__file__).parent.glob("*.py")
    trees = [ast.parse(file.read_text()) for file in files]
    classes = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    assert {node.name for node in classes} >= {kind.__name__ for kind in COMMANDS}
    for node in classes:
        for field, after in itertools.pairwise(node.body):
            if isinstance(field, ast.AnnAssign) and "Config" not in ast.unparse(field.annotation):
                explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert explained and len(after.value.value) > 10, f"{node.name}.{ast.unparse(field.target)}"


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__name__)
def test_json_round_trip(kind):
    made = kind(REQUIRED[kind]) if kind in REQUIRED else kind()
    assert from_dict(kind, json.loads(json.dumps(dataclasses.asdict(made)))) == made


def test_defaults_from_a_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        "steps = 7\nlearning_rate = 1e-4\nclip_norm = 2\nresume = true\n"
        '[thought]\nmode = "fuzzy"\n[task]\nlimit = 3\ngrader = "math"\n'
    )
    expected = TrainConfig(
        steps=7,
        learning_rate=1e-4,
        clip_norm=2.0,
        resume=True,
        thought=ThoughtConfig(mode="fuzzy"),
        task=TaskConfig(limit=3, grader="math"),
    )
    assert load_defaults(TrainConfig, [str(file)]) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 3", "stepz: unknown key; the keys here are answer_temperature, answer_weight"),
        (
            "[thought]\ntemperature = 3",
            "thought.temperature: unknown key; the keys here are concentration, estimator",
        ),
        ('steps = "3"', "steps is '3'; it must be a whole number"),
        ("steps = 3.5", "steps is 3.5; it must be a whole number"),
        ("steps = true", "steps is True; it must be a whole number"),
        ("resume = 1", "resume is 1; it must be true or false"),
        ("learning_rate = false", "learning_rate is False; it must be a number"),
        ("model = 3", "model is 3; it must be a text"),
        ("thought = 3", "thought is 3; it must be a table"),
        ("[task]\nlimit = 'all'", "task.limit is 'all'; it must be a whole number"),
        ("[thought]\nmode = 'liquid'", "mode is 'liquid'; it must be one of hard, soft, fuzzy"),
        ("[task]\ngrader = 3", "task.grader is 3; it must be one of exact, math"),
        ("steps = ", "is not valid TOML"),
        ("steps = " + "[" * 100_000, "is nested too deep"),
        ("# " + "x" * (1 << 20), "is larger than 1,048,576 bytes"),
    ],
)
def test_files_refused_in_words(tmp_path, text, message):
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        load_defaults(TrainConfig, [str(file)])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_tuple_of_settings_from_a_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('settings = ["hard-greedy", "soft-sample"]')
    assert load_defaults(EvaluateConfig, [str(file)]).settings == ("hard-greedy", "soft-sample")
    file.write_text("settings = [1]")
    with pytest.raises(UserError, match="settings is \\[1\\]; every item of the list must be a text"):
        load_defaults(EvaluateConfig, [str(file)])


def test_a_grid_of_numbers_from_a_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("gammas = [0.1, 1]")
    assert load_defaults(EvaluateConfig, [str(file)]).gammas == (0.1, 1.0)
    file.write_text("gammas = [0.1, true]")
    with pytest.raises(UserError, match=r"gammas is .*; every item of the list must be a number"):
        load_defaults(EvaluateConfig, [str(file)])


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_files_that_cannot_be_read(tmp_path, content):
    file = tmp_path / "run.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read: No such file" if content is None else "is not valid TOML"):
        load_defaults(TrainConfig, [str(file)])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (TrainConfig, "clip_norm"),
        (TrainConfig, "learning_rate"),
        (TrainConfig, "spike_norm"),
        (TrainConfig, "answer_temperature"),
        (ThoughtConfig, "tau"),
        (ThoughtConfig, "gamma"),
        (RewardConfig, "right"),
        (GenerateConfig, "gamma"),
        (EvaluateConfig, "memory"),
        (EvaluateConfig, "taus"),
        (SignalConfig, "taus"),
        (SignalConfig, "memory"),
    ],
)
def test_numbers_that_float32_cannot_compute_with_are_refused(kind, name):
    """Infinite numbers, and numbers so small that their inverse overflows float32."""
    first = (REQUIRED[kind],) if kind in REQUIRED else ()
    for value in (INFINITY, 1e-40, 5e-324):
        with pytest.raises(UserError, match=rf"{name} is {value}"):
            kind(*first, **{name: (value,) if name == "taus" else value})


def test_the_paper_s_scale_and_failures_that_do_not_pay():
    rewards = {verdict: RewardConfig().of(verdict) for verdict in Verdict}
    assert rewards == {
        Verdict.RIGHT: 100.0,
        Verdict.WRONG: 10.0,
        Verdict.NO_ANSWER: 0.0,
        Verdict.GRADER_TIMEOUT: 0.0,
        Verdict.GRADER_ERROR: 0.0,
    }
    assert RewardConfig(right=1.0, wrong=-1.0, none=-2.0).of(Verdict.GRADER_ERROR) == -2.0
