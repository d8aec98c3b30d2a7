"""From texts to rewards: a grader with the paper's scale, reward functions, or a weighted sum of both."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from softtokens.config.train import RewardConfig
from softtokens.rewards import Grader
from softtokens.rewards.functions import RewardFunction, reward_function
from softtokens.types import Problem, UserError, Verdict, answers_of

log = logging.getLogger(__name__)
_OWN = {"prompt", "prompts", "completion", "completions", "answer", "thoughts", "answers", "thought_lengths"}
_LARGEST = 1e30  # sums of larger rewards overflow float32
NOT_COUNTED = math.nan  # the reward of a rollout that no function judges


class RewardError(UserError):
    """A reward function failed, or returned what is no reward. The run can be continued with a better one."""


@dataclasses.dataclass(frozen=True)
class Completions:
    """What is judged, one entry per rollout. thoughts: the (shadow) texts. answers: with the forced text in front."""

    problems: Sequence[Problem]
    thoughts: Sequence[str]
    answers: Sequence[str]
    thought_lengths: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Scores:
    """rewards: one per rollout, NaN for one that does not count. verdicts: where a grader gave them. parts: by name,
    what each function gave, before weighting; NaN where it gave None."""

    rewards: list[float]
    verdicts: list[Verdict] | None = None
    parts: Mapping[str, list[float]] = dataclasses.field(default_factory=dict)


Scorer = Callable[[Completions], Scores]


def scorer(
    config: RewardConfig, grader: Grader, function: RewardFunction | None = None, *, columns: Set[str] = frozenset()
) -> Scorer:
    """The rewards that a configuration names; `function` replaces them. columns: those of the data.

    UserError for functions that cannot be loaded or called.
    """
    if function is not None:
        require_reward_function(function, columns)
        return by_function(function, columns)
    if not config.functions:
        return graded(grader, config.of)
    scorers: dict[str, Scorer] = {}
    for name in config.functions:
        if name == "grade":
            scorers[name] = graded(grader, config.of)
            continue
        loaded = reward_function(name)
        require_reward_function(loaded, columns, setting=f"reward.functions has {name!r}, which")
        scorers[name] = by_function(loaded, columns)
    return weighted_sum(scorers, config.weights or (1.0,) * len(scorers))


def graded(grader: Grader, reward_of: Callable[[Verdict], float]) -> Scorer:
    """Grade the boxed answer against the problem's."""

    def score(completions: Completions) -> Scores:
        verdicts = grader.grade(completions.answers, answers_of(completions.problems))
        return Scores([reward_of(verdict) for verdict in verdicts], verdicts)

    return score


def weighted_sum(scorers: Mapping[str, Scorer], weights: Sequence[float]) -> Scorer:
    """The sum of what the scorers give, each times its weight. A rollout that some do not count is judged by the
    others; one that none counts does not count."""

    def score(completions: Completions) -> Scores:
        scores = {name: scorer(completions) for name, scorer in scorers.items()}
        columns = zip(*(each.rewards for each in scores.values()), strict=True)
        rewards = [_sum_of_counted(row, weights) for row in columns]
        verdicts = next((each.verdicts for each in scores.values() if each.verdicts is not None), None)
        return Scores(rewards, verdicts, {name: each.rewards for name, each in scores.items()})

    return score


def _sum_of_counted(rewards: Sequence[float], weights: Sequence[float]) -> float:
    counted = [weight * reward for weight, reward in zip(weights, rewards, strict=True) if not math.isnan(reward)]
    return math.fsum(counted) if counted else NOT_COUNTED


def columns_of(problems: Sequence[Problem]) -> set[str]:
    """The columns of the data, also those that only some rows have."""
    return {name for problem in problems for name in problem.columns}


def require_reward_function(function: object, columns: Set[str] | None = None, *, setting: str = "reward_func") -> None:
    """UserError for what cannot be called as `by_function` calls it, before a model is loaded. columns: those of the
    data; None if it has not been read yet, when any keyword may be one. setting: where the function was named."""
    name = getattr(function, "__name__", type(function).__name__)
    if not callable(function):
        raise UserError(f"{setting} is {_shown(function)}, a {type(function).__name__}; it has to be one function.")
    passed = {"prompts", "completions", "answer", "a_column_of_the_data", *((columns or set()) - _OWN)}
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-ins have no signature
        return
    passed |= _wanted(function, Completions([], [], [], [])).keys()
    missing = _required(signature) - passed
    if columns is not None and missing:
        listed = ", ".join(sorted(columns - _OWN)) or "no others"
        raise UserError(
            f"the reward function {name} takes {', '.join(sorted(missing))}, which the data does not have; its columns "
            f"are answer and {listed}. Correct the name, give it a default, or add the column to the data."
        )
    try:
        signature.bind(**dict.fromkeys(passed | missing))
    except TypeError as error:
        raise UserError(
            f"the reward function {name} cannot be called with prompts, completions, answer and the data's columns as "
            f"keywords ({error}); define it as {name}(prompts, completions, **columns)."
        ) from error


def _required(signature: inspect.Signature) -> set[str]:
    """The names of the keywords that a call has to give."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = signature.parameters.values()
    return {each.name for each in parameters if each.kind in named and each.default is each.empty}


def by_function(function: RewardFunction, columns: Set[str] = frozenset()) -> Scorer:
    """A reward function as users of TRL know it: `function(prompts, completions, **columns) -> list of floats`.

    It may be a coroutine function. A completion is the (shadow) text of the thoughts, the forced text and the answer.
    None for a completion means that it does not count. The columns are `columns`, those of the rows and `answer`, None
    where a row has none; `thoughts`, `answers` and `thought_lengths` come along for a function that takes them.
    RewardError, with the name of the function, if it fails, and with the number of the completion for rewards that are
    no finite numbers.
    """
    name = getattr(function, "__name__", type(function).__name__)

    def score(completions: Completions) -> Scores:
        problems = completions.problems
        names = sorted((columns | columns_of(problems)) - _OWN)
        values = {name: [problem.columns.get(name) for problem in problems] for name in names}
        try:
            rewards: Any = function(
                prompts=[problem.prompt for problem in problems],
                completions=[t + a for t, a in zip(completions.thoughts, completions.answers, strict=True)],
                answer=[problem.answer for problem in problems],
                **_wanted(function, completions),
                **values,
            )
            if inspect.isawaitable(rewards):
                rewards = asyncio.run(_result_of(rewards))
        except Exception as error:
            log.exception("the reward function %s failed:", name)
            raise RewardError(
                f"the reward function {name} failed on {len(problems)} completions ({type(error).__name__}: {error}); "
                "correct it and continue the run with --resume."
            ) from error
        return Scores(_checked(rewards, len(problems), name))

    return score


async def _result_of(awaitable: Any) -> Any:
    return await awaitable


def _wanted(function: RewardFunction, completions: Completions) -> dict[str, Sequence]:
    """Of what TRL does not pass, what the function takes."""
    extra = {name: getattr(completions, name) for name in ("thoughts", "answers", "thought_lengths")}
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        return {}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return extra
    return {name: values for name, values in extra.items() if name in parameters}


def _checked(rewards: Any, count: int, name: str) -> list[float]:
    """One finite float per completion, NaN for None, from a list, tuple or other sequence, an array or a
    one-dimensional tensor."""
    wanted = f"it has to return a list of {count} numbers, one per completion"
    if isinstance(rewards, (str, bytes, Mapping, Set)) or not hasattr(rewards, "__len__"):
        raise RewardError(
            f"the reward function {name} returned {_shown(rewards)}, a {type(rewards).__name__}; {wanted}."
        )
    shape = tuple(getattr(rewards, "shape", (count,)))
    if len(shape) != 1:
        raise RewardError(f"the reward function {name} returned an array of shape {list(shape)}; {wanted}.")
    if len(rewards) != count:
        raise RewardError(
            f"the reward function {name} returned {len(rewards)} rewards for {count} completions; {wanted}."
        )
    return [_number(reward, f"the reward function {name} returned", i) for i, reward in enumerate(rewards)]


def _number(reward: Any, returned: str, completion: int) -> float:
    if reward is None:
        return NOT_COUNTED
    try:
        if isinstance(reward, (str, bytes)):
            raise TypeError("a text")
        number = float(reward)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor of several numbers
        raise RewardError(
            f"{returned} {_shown(reward)} for completion {completion} (the first is 0); a reward has to be a number, "
            "or None if the completion does not count."
        ) from error
    if not abs(number) <= _LARGEST:
        raise RewardError(
            f"{returned} {number} for completion {completion} (the first is 0); rewards have to be finite, and at most "
            f"{_LARGEST:g} in size."
        )
    return number


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
