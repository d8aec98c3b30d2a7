import numpy as np
import pytest
import torch

from softtokens.config.train import RewardConfig, TrainConfig
from softtokens.rewards import grader
from softtokens.train.loop import train
from softtokens.train.scoring import by_function, graded
from softtokens.types import Problem, UserError, Verdict

PROBLEMS = [
    Problem(0, "1 + 1 =", "2", {"level": "easy", "source": "a"}),
    Problem(1, "40 + 2 =", "42", {"level": "hard"}),
]
THOUGHTS, ANSWERS = [" well", " so"], [r" The final answer is: \boxed{2}", r" \boxed{41}"]


def test_a_grader_and_the_scale():
    rewards, verdicts = graded(grader("exact"), RewardConfig(right=7, wrong=3, none=-1).of)(
        [*PROBLEMS, PROBLEMS[0]], [*THOUGHTS, r" \boxed{2}"], [*ANSWERS, r" \boxed{2"]
    )
    assert rewards == [7, 3, -1]  # a box in the thoughts does not count
    assert verdicts == [Verdict.RIGHT, Verdict.WRONG, Verdict.NO_ANSWER]


def test_a_reward_function_as_written_for_trl():
    calls = []

    def reward_func(prompts, completions, **columns):
        calls.append((prompts, completions, columns))
        return [len(completion) for completion in completions]

    rewards, verdicts = by_function(reward_func)(PROBLEMS, THOUGHTS, ANSWERS)
    completions = [THOUGHTS[0] + ANSWERS[0], THOUGHTS[1] + ANSWERS[1]]
    columns = {"answer": ["2", "42"], "level": ["easy", "hard"], "source": ["a", None]}
    assert calls == [(["1 + 1 =", "40 + 2 ="], completions, columns)]
    assert rewards == [float(len(completion)) for completion in completions]
    assert all(isinstance(reward, float) for reward in rewards)
    assert verdicts is None


def test_a_reward_function_may_name_what_it_needs():
    def reward_func(completions, answer, **kwargs):
        del kwargs
        return [float(expected in text) for text, expected in zip(completions, answer, strict=True)]

    assert by_function(reward_func)(PROBLEMS, THOUGHTS, ANSWERS)[0] == [1.0, 0.0]


def test_columns_do_not_hide_prompts_and_answers():
    problem = Problem(0, "the prompt", "the answer", {"prompt": "x", "completion": "x", "answer": "x"})

    def reward_func(prompts, completions, answer):
        assert (prompts, answer) == (["the prompt"], ["the answer"])
        return [1.0] * len(completions)

    assert by_function(reward_func)([problem], ["a"], ["b"])[0] == [1.0]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0], "1 rewards for 2 completions"),
        ([1.0, 2.0, 3.0], "3 rewards for 2 completions"),
        ([1.0, float("nan")], "nan for completion 1"),
        ([float("-inf"), 1.0], "-inf for completion 0"),
        ([1.0, None], "None for completion 1"),
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
        by_function(own_function)(PROBLEMS, THOUGHTS, ANSWERS)


@pytest.mark.parametrize(
    "returned", [(1, 2.0), torch.tensor([1.0, 2.0]), np.array([1, 2]), [np.float32(1), torch.tensor(2)]]
)
def test_every_sequence_of_numbers_is_rewards(returned):
    assert by_function(lambda **columns: returned)(PROBLEMS, THOUGHTS, ANSWERS)[0] == [1.0, 2.0]


def test_a_reward_function_gets_none_for_answers_that_are_not_there():
    problem = Problem(0, "Say hello.", None)
    score = by_function(lambda answer, **columns: [float(a is None) for a in answer])
    assert score([problem], ["a"], ["b"])[0] == [1.0]


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
        by_function(lambda **columns: [reward])(problems, ["t"], ["a"])
