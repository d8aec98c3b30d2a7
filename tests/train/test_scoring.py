import asyncio
import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from softtokens.config.task import TaskConfig
from softtokens.config.train import RewardConfig, TrainConfig
from softtokens.rewards import grader
from softtokens.train.loop import train
from softtokens.train.scoring import Completions, RewardError, by_function, graded, scorer
from softtokens.types import Problem, UserError, Verdict

PROBLEMS = [
    Problem(0, "1 + 1 =", "2", {"level": "easy", "source": "a"}),
    Problem(1, "40 + 2 =", "42", {"level": "hard"}),
]
THOUGHTS, ANSWERS = [" well", " so"], [r" The final answer is: \boxed{2}", r" \boxed{41}"]


def completions(problems=PROBLEMS, thoughts=THOUGHTS, answers=ANSWERS):
    return Completions(problems, thoughts, answers, list(range(1, len(problems) + 1)))


def test_a_grader_and_the_scale():
    scores = graded(grader("exact"), RewardConfig(right=7, wrong=3, none=-1).of)(
        completions([*PROBLEMS, PROBLEMS[0]], [*THOUGHTS, r" \boxed{2}"], [*ANSWERS, r" \boxed{2"])
    )
    assert scores.rewards == [7, 3, -1]  # a box in the thoughts does not count
    assert scores.verdicts == [Verdict.RIGHT, Verdict.WRONG, Verdict.NO_ANSWER]


def test_a_reward_function_as_written_for_trl():
    calls = []

    def reward_func(prompts, completions, **columns):
        calls.append((prompts, completions, columns))
        return [len(completion) for completion in completions]

    scores = by_function(reward_func)(completions())
    texts = [THOUGHTS[0] + ANSWERS[0], THOUGHTS[1] + ANSWERS[1]]
    columns = {"answer": ["2", "42"], "level": ["easy", "hard"], "source": ["a", None]}
    columns |= {"thoughts": THOUGHTS, "answers": ANSWERS, "thought_lengths": [1, 2]}
    assert calls == [(["1 + 1 =", "40 + 2 ="], texts, columns)]
    assert scores.rewards == [float(len(text)) for text in texts]
    assert all(isinstance(reward, float) for reward in scores.rewards)
    assert scores.verdicts is None


def test_a_reward_function_may_name_what_it_needs():
    def reward_func(completions, answer, **kwargs):
        del kwargs
        return [float(expected in text) for text, expected in zip(completions, answer, strict=True)]

    assert by_function(reward_func)(completions()).rewards == [1.0, 0.0]


def test_a_reward_function_may_require_a_column(tmp_path):
    (tmp_path / "own.py").write_text("def f(level, **_):\n    return [float(x == 'hard') for x in level]\n")
    config = RewardConfig(functions=(f"{tmp_path}/own.py:f",))
    assert scorer(config, grader("exact"), columns={"level"})(
        completions([dataclasses.replace(problem, columns={"level": "hard"}) for problem in PROBLEMS])
    ).rewards == [1.0, 1.0]
    with pytest.raises(
        UserError, match="f takes level, which the data does not have; its columns are answer and topic"
    ):
        scorer(config, grader("exact"), columns={"topic"})


def test_a_column_is_passed_also_where_no_row_of_the_batch_has_it():
    """Rows of a file need not have the same columns, so a batch may lack one."""
    score = by_function(lambda source, **_: [float(x is None) for x in source], {"source"})
    assert score(completions([dataclasses.replace(PROBLEMS[1], columns={})] * 2)).rewards == [1.0, 1.0]


def test_a_run_reads_the_columns_from_the_data(tmp_path):
    (tmp_path / "own.py").write_text("def f(kind, **_):\n    return [1.0 for _ in kind]\n")
    rows = tmp_path / "rows.jsonl"
    config = TrainConfig(
        output=str(tmp_path / "run"),
        model="/nowhere",
        task=TaskConfig(name=str(rows)),
        reward=RewardConfig(functions=(f"{tmp_path}/own.py:f",)),
        validate_every=0,
        device="cpu",
    )
    rows.write_text('{"question": "Say 1."}\n')
    with pytest.raises(UserError, match="f takes kind, which the data does not have"):
        train(config)
    rows.write_text('{"question": "Say 1."}\n{"question": "Say 2.", "kind": "x"}\n')
    with pytest.raises(UserError, match="nowhere"):  # the model comes next
        train(config)


def test_columns_do_not_hide_prompts_and_answers():
    problem = Problem(0, "the prompt", "the answer", {"prompt": "x", "completion": "x", "answer": "x"})

    def reward_func(prompts, completions, answer):
        assert (prompts, answer) == (["the prompt"], ["the answer"])
        return [1.0] * len(completions)

    assert by_function(reward_func)(completions([problem], ["a"], ["b"])).rewards == [1.0]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0], "1 rewards for 2 completions"),
        ([1.0, 2.0, 3.0], "3 rewards for 2 completions"),
        ([1.0, float("nan")], "nan for completion 1"),
        ([float("-inf"), 1.0], "-inf for completion 0"),
        ([1.0, "2"], "'2' for completion 1"),
        ([[1.0, 2.0], 1.0], r"\[1.0, 2.0\] for completion 0"),
        ([1.0, {"a": 1}], "for completion 1"),
        ([1.0, torch.ones(2)], r"tensor\(\[1., 1.\]\) for completion 1"),
        ({0: 9.0, 1: 9.0}, "{0: 9.0, 1: 9.0}, a dict; it has to return a list of 2 numbers"),
        ({9.0, 8.0}, "a set; it has to return a list of 2 numbers"),
        ("12", "'12', a str; it has to return a list of 2 numbers"),
        (torch.ones(2, 2), r"an array of shape \[2, 2\]; it has to return a list of 2 numbers"),
        (torch.tensor(1.0), r"an array of shape \[\]"),
        (1.0, "1.0, a float; it has to return a list of 2 numbers"),
        (None, "None, a NoneType; it has to return a list of 2 numbers"),
    ],
)
def test_rewards_that_cannot_be_used_are_refused(returned, message):
    def own_function(**columns):
        return returned

    with pytest.raises(UserError, match=f"the reward function own_function returned .*{message}"):
        by_function(own_function)(completions())


@pytest.mark.parametrize(
    "returned", [(1, 2.0), torch.tensor([1.0, 2.0]), np.array([1, 2]), [np.float32(1), torch.tensor(2)]]
)
def test_every_sequence_of_numbers_is_rewards(returned):
    assert by_function(lambda **columns: returned)(completions()).rewards == [1.0, 2.0]


def test_a_reward_function_gets_none_for_answers_that_are_not_there():
    problem = Problem(0, "Say hello.", None)
    score = by_function(lambda answer, **columns: [float(a is None) for a in answer])
    assert score(completions([problem], ["a"], ["b"])).rewards == [1.0]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ([len], r"reward_func is \[<built-in function len>\], a list; it has to be one function"),
        ("length", "reward_func is 'length', a str"),
        (lambda prompts, completions: [], r"cannot be called with prompts, completions, answer .* \*\*columns"),
    ],
)
def test_what_is_no_reward_function_is_refused_before_a_model_is_loaded(tmp_path, function, message):
    config = TrainConfig(output=str(tmp_path / "run"), model="/nowhere")
    with pytest.raises(UserError, match=message):
        train(config, reward_func=function)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("reward", [1e39, -3e38, float("inf"), float("nan")])
def test_rewards_that_float32_cannot_add_are_refused(reward):
    problems = [Problem(0, "p", "1")]
    with pytest.raises(UserError, match=r"for completion 0 .*have to be finite, and at most 1e\+30 in size"):
        by_function(lambda **columns: [reward])(completions(problems, ["t"], ["a"]))


def test_none_means_that_a_completion_does_not_count():
    first, second = by_function(lambda **columns: [None, 2])(completions()).rewards
    assert math.isnan(first) and second == 2.0


def test_a_reward_function_may_be_a_coroutine():
    async def judge(completions, **columns):
        await asyncio.sleep(0)
        return [1.0] * len(completions)

    assert by_function(judge)(completions()).rewards == [1.0, 1.0]


def test_a_function_that_fails_is_named(caplog):
    def judge(completions, **columns):
        raise KeyError("level")

    with pytest.raises(RewardError, match=r"the reward function judge failed on 2 completions \(KeyError: 'level'\)"):
        by_function(judge)(completions())
    assert "Traceback" in caplog.text  # the user's own line


def test_rewards_are_a_weighted_sum(tmp_path):
    (tmp_path / "own.py").write_text(
        "def odd(thought_lengths, **_):\n    return [n if n % 2 else None for n in thought_lengths]\n"
    )
    config = RewardConfig(functions=("grade", "format", "length", f"{tmp_path}/own.py:odd"), weights=(1, 5, -0.5, 2))
    scores = scorer(config, grader("exact"))(completions())
    assert scores.rewards == [100 + 5 - 0.5 + 2, 10 + 5 - 1]  # the second is judged by the others alone
    assert scores.verdicts == [Verdict.RIGHT, Verdict.WRONG]
    assert list(scores.parts) == list(config.functions)
    assert scores.parts["length"] == [1, 2] and math.isnan(scores.parts[f"{tmp_path}/own.py:odd"][1])


def test_what_no_function_counts_does_not_count(tmp_path):
    (tmp_path / "own.py").write_text("def nothing(completions, **_):\n    return [None] * len(completions)\n")
    config = RewardConfig(functions=(f"{tmp_path}/own.py:nothing",))
    assert all(map(math.isnan, scorer(config, grader("exact"))(completions()).rewards))
    assert not config.grades


def test_a_file_may_import_its_neighbours_and_define_dataclasses(tmp_path):
    (tmp_path / "a_neighbour.py").write_text("VALUE = 2.0\n")
    (tmp_path / "own.py").write_text(
        "from __future__ import annotations\n"
        "import dataclasses\nfrom a_neighbour import VALUE\n"
        "@dataclasses.dataclass\nclass Rule:\n    value: float = VALUE\n"
        "def f(completions, **_):\n    return [Rule().value] * len(completions)\n"
    )
    config = RewardConfig(functions=(f"{tmp_path}/own.py:f",))
    assert scorer(config, grader("exact"))(completions()).rewards == [2.0, 2.0]


def test_a_file_that_exits_is_refused(tmp_path):
    (tmp_path / "own.py").write_text("raise SystemExit(2)\n")
    with pytest.raises(UserError, match=r"own.py cannot be imported: SystemExit: 2"):
        scorer(RewardConfig(functions=(f"{tmp_path}/own.py:f",)), grader("exact"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("formats", "'formats'; it must be one of grade, format, length, or MODULE:FUNCTION"),
        ("no_such_module:f", "no_such_module cannot be imported: ModuleNotFoundError"),
        ("nowhere.py:f", "there is no file nowhere.py"),
        ("math:square", "math has no square; check its name"),
        ("math:pi", "'math:pi', which is 3.14.*, a float; it has to be one function"),
        ("math:sqrt", "sqrt cannot be called with prompts"),
    ],
)
def test_functions_that_cannot_be_had_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        scorer(RewardConfig(functions=(name,)), grader("exact"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"functions": ("grade", "grade")}, "'grade' more than once"),
        ({"functions": ("grade",), "weights": (1.0, 2.0)}, "2 numbers for 1 reward.functions"),
        ({"functions": ("grade",), "weights": (math.inf,)}, "reward.weights is inf"),
    ],
)
def test_functions_and_weights_belong_together(settings, message):
    with pytest.raises(UserError, match=message):
        RewardConfig(**settings)


def test_a_run_with_functions_is_saved_when_one_fails_and_continues(tmp_path, monkeypatch):
    own = tmp_path / "own.py"
    source = """
calls = []
def judge(completions, **_):
    calls.append(1)
    if len(calls) == 3:
        raise ValueError("the judge is asleep")
    return [len(text) if i % 3 else None for i, text in enumerate(completions)]
"""
    own.write_text(source)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"Say {i}."}) + "\n" for i in range(4)))  # no answers needed
    config = TrainConfig(
        output=str(tmp_path / "run"),
        task=TaskConfig(name=str(rows)),
        reward=RewardConfig(functions=(f"{own}:judge", "length"), weights=(1.0, 0.1)),
        steps=4,
        group_size=4,
        max_thought_steps=4,
        max_answer_tokens=3,
        validate_every=0,
        device="cpu",
    )
    with pytest.raises(RewardError, match=r"the judge is asleep.*--resume"):
        train(config)
    own.write_text(source.replace("== 3", "== 30"))
    run = train(dataclasses.replace(config, resume=True))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[0][f"reward/{own}:judge_none"] == pytest.approx(1 / 4, abs=0.13) and lines[0]["reward/length"] <= 4
