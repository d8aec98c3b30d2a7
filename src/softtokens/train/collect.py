"""A batch of rollouts with rewards and advantages: the first half of a training step."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from softtokens.ops.random import MIRRORED
from softtokens.rollout.batches import sample_problems
from softtokens.rollout.record import Rollout
from softtokens.train.data import problems_of_step
from softtokens.train.metrics import means, reward_metrics, rollout_tally
from softtokens.train.objective import leave_one_out
from softtokens.train.scoring import Completions, RewardError, Scores
from softtokens.train.trainee import Trainee
from softtokens.types import Problem


@dataclasses.dataclass(frozen=True)
class Collected:
    """A batch of rollouts with rewards.

    rollout, advantages [rows], in_first_half [rows]: this process's rows, sorted by length; in_first_half marks the
    rows whose problem is in the first half of the batch. rewards: [problems, group], of all processes. metrics: over
    all processes. samples: of all processes, in the main process only.
    """

    rollout: Rollout
    advantages: Tensor
    in_first_half: Tensor
    rewards: Tensor
    metrics: dict[str, float]
    samples: list[dict]

    @property
    def has_spread(self) -> bool:
        """Whether the rewards of any group differ, so that there is something to learn."""
        return bool(leave_one_out(self.rewards).any())


def collect(t: Trainee, step: int) -> Collected | str:
    """Sample this step's rollouts and score them. Returns the reason instead if the model's logits are not finite."""
    config, world, started = t.config, t.world, time.perf_counter()
    visits = problems_of_step(t.problems, step, config.problems_per_step, config.seed)
    mark = MIRRORED if config.antithetic else 0
    rows = [
        (problem, mark + visit * config.group_size + i) for problem, visit in visits for i in range(config.group_size)
    ]
    my_rows = [rows[i] for i in world.share(len(rows))]
    rollout, failure = world.together(lambda: _sample(t, my_rows))
    sampled = time.perf_counter()
    failures = [f"process {rank}: {why}" for rank, why in enumerate(world.gather(failure)) if why is not None]
    if failures:
        return failures[0]

    assert rollout is not None, "no process failed"
    problems = [problem for problem, _ in my_rows]
    scores = _scores(t, rollout, problems)
    lines = _samples(step, rollout, problems, scores, [number - mark for _, number in my_rows], config.group_size)
    gathered = world.gather((scores, lines, rollout_tally(rollout, t.limits.endings.reasons)))
    all_scores, samples, tallies = (list(column) for column in zip(*gathered, strict=True))

    def of_groups(of: Callable[[Scores], list[float]]) -> Tensor:
        values = torch.tensor(_joined([of(scores) for scores in all_scores]), dtype=torch.float32)
        return values.view(len(visits), config.group_size)

    rewards = of_groups(lambda scores: scores.rewards)
    parts = {name: of_groups(_part(name)) for name in scores.parts}
    verdicts = None if scores.verdicts is None else _joined([each.verdicts for each in all_scores])
    advantages = (
        leave_one_out(rewards, pairs=config.antithetic).flatten()[list(world.share(len(rows)))].to(world.device)
    )
    metrics = reward_metrics(rewards, verdicts, parts) | means(tallies)
    metrics["num_tokens"] = float(sum(tally["completions/mean_length"][0] for tally in tallies))
    metrics |= {"time/rollout": sampled - started, "time/grade": time.perf_counter() - sampled}
    metrics["tokens_per_second"] = metrics["num_tokens"] / metrics["time/rollout"]
    places = torch.tensor(world.share(len(rows)), device=world.device) // config.group_size
    halves = places < len(visits) // 2
    order = rollout.lengths.argsort()  # rows of similar length share a backward pass
    return Collected(rollout.take(order), advantages[order], halves[order], rewards, metrics, _joined(samples))


def _sample(t: Trainee, rows: Sequence[tuple[Problem, int]]) -> tuple[Rollout | None, str | None]:
    """Rollouts of (problem, number of the rollout); or why the model could not give any."""
    groups = [list(group) for _, group in itertools.groupby(rows, key=lambda row: id(row[0]))]
    problems = [group[0][0] for group in groups]
    numbers = [[number for _, number in group] for group in groups]

    def sample(slots: int) -> tuple[Rollout | None, str | None]:
        try:
            return sample_problems(
                t.weights.sampler,
                t.thought,
                problems,
                numbers,
                t.limits,
                seed=t.config.seed,
                slots=slots,
                decoder=t.decoder,
            ), None
        except FloatingPointError as error:
            return None, str(error)

    return t.batch_sizes.sampling("slots", t.decoder, sample)


def _scores(t: Trainee, rollout: Rollout, problems: list[Problem]) -> Scores:
    """The rewards of this process's rows. RewardError in every process if a reward function fails in one, so that all
    can save together."""
    completions = Completions(problems, rollout.thought_texts, rollout.answer_texts, rollout.thought_lengths.tolist())

    def score() -> tuple[Scores | None, str | None]:
        try:
            return t.score(completions), None
        except RewardError as error:
            return None, str(error)

    scores, failure = t.world.together(score)
    failures = [why for why in t.world.gather(failure) if why is not None]
    if failures:
        raise RewardError(failures[0])
    assert scores is not None, "no process failed"
    return scores


def _part(name: str) -> Callable[[Scores], list[float]]:
    return lambda scores: scores.parts[name]


def _samples(
    step: int,
    rollout: Rollout,
    problems: list[Problem],
    scores: Scores,
    numbers: list[int],
    group: int,
) -> list[dict]:
    """Lines of samples.jsonl: the first rollout of each problem."""
    return [
        {
            "step": step + 1,
            "problem": problem.id,
            "prompt": problem.prompt,
            "thoughts": rollout.thought_texts[row],
            "answer": rollout.answer_texts[row],
            "expected": problem.answer,
            "stop": rollout.stop_reasons[row],
            "reward": None if math.isnan(scores.rewards[row]) else scores.rewards[row],
            "verdict": scores.verdicts[row].value if scores.verdicts else None,
        }
        for row, problem in enumerate(problems)
        if numbers[row] % group == 0
    ]


def _joined(parts: list[list]) -> list:
    return [value for part in parts for value in part]
