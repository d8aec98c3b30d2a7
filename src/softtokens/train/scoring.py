"""From texts to rewards: a grader with the paper's scale, or the user's own function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, Protocol

from softtokens.rewards import Grader
from softtokens.types import Problem, UserError, Verdict, answers_of

_OWN = {"prompt", "prompts", "completion", "completions", "answer"}  # arguments that are not columns of the data set
_LARGEST = 1e30  # sums of larger rewards overflow float32
RewardFunction = Callable[..., Sequence[float]]


class Scorer(Protocol):
    """Rewards of completions, one problem per completion; verdicts where a grader gave them."""

    def __call__(
        self, problems: Sequence[Problem], thoughts: Sequence[str], answers: Sequence[str]
    ) -> tuple[list[float], list[Verdict] | None]: ...


def graded(grader: Grader, reward_of: Callable[[Verdict], float]) -> Scorer:
    """Grade the boxed answer against the problem's."""

    def score(
        problems: Sequence[Problem], thoughts: Sequence[str], answers: Sequence[str]
    ) -> tuple[list[float], list[Verdict] | None]:
        del thoughts
        verdicts = grader.grade(answers, answers_of(problems))
        return [reward_of(verdict) for verdict in verdicts], verdicts

    return score


def require_reward_function(function: object) -> None:
    """UserError for what cannot be called as `by_function` calls it: before a model is loaded."""
    name = getattr(function, "__name__", type(function).__name__)
    if not callable(function):
        raise UserError(f"reward_func is {_shown(function)}, a {type(function).__name__}; it has to be one function.")
    try:
        inspect.signature(function).bind(prompts=[], completions=[], answer=[], a_column_of_the_data=[])
    except TypeError as error:
        raise UserError(
            f"the reward function {name} cannot be called with prompts, completions, answer and the data's columns as "
            f"keywords ({error}); define it as {name}(prompts, completions, **columns)."
        ) from error
    except ValueError:  # some built-ins have no signature
        return


def by_function(function: RewardFunction) -> Scorer:
    """A reward function as users of TRL know it: `function(prompts, completions, **columns) -> list of floats`.

    A completion is the (shadow) text of the thoughts, the forced text and the answer. The columns are those of the
    data set's rows, and `answer`, which is None where a row has none. UserError, with the name of the function and the
    number of the completion, for rewards that are no finite numbers.
    """

    def score(
        problems: Sequence[Problem], thoughts: Sequence[str], answers: Sequence[str]
    ) -> tuple[list[float], list[Verdict] | None]:
        names = sorted({name for problem in problems for name in problem.columns} - _OWN)
        columns = {name: [problem.columns.get(name) for problem in problems] for name in names}
        rewards = function(
            prompts=[problem.prompt for problem in problems],
            completions=[t + a for t, a in zip(thoughts, answers, strict=True)],
            answer=[problem.answer for problem in problems],
            **columns,
        )
        return _checked(rewards, len(problems), getattr(function, "__name__", type(function).__name__)), None

    return score


def _checked(rewards: Any, count: int, name: str) -> list[float]:
    """One finite float per completion, from a list, tuple or other sequence, an array or a one-dimensional tensor."""
    wanted = f"it has to return a list of {count} numbers, one per completion"
    if isinstance(rewards, (str, bytes, Mapping, Set)) or not hasattr(rewards, "__len__"):
        raise UserError(f"the reward function {name} returned {_shown(rewards)}, a {type(rewards).__name__}; {wanted}.")
    shape = tuple(getattr(rewards, "shape", (count,)))
    if len(shape) != 1:
        raise UserError(f"the reward function {name} returned an array of shape {list(shape)}; {wanted}.")
    if len(rewards) != count:
        raise UserError(f"the reward function {name} returned {len(rewards)} rewards for {count} completions.")
    return [_number(reward, f"the reward function {name} returned", i) for i, reward in enumerate(rewards)]


def _number(reward: Any, returned: str, completion: int) -> float:
    try:
        if isinstance(reward, (str, bytes)):
            raise TypeError("a text")
        number = float(reward)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor of several numbers
        raise UserError(
            f"{returned} {_shown(reward)} for completion {completion} (the first is 0); a reward has to be a number."
        ) from error
    if not abs(number) <= _LARGEST:
        raise UserError(
            f"{returned} {number} for completion {completion} (the first is 0); rewards have to be finite, and at most "
            f"{_LARGEST:g} in size."
        )
    return number


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
