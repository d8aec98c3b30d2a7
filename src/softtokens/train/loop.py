"""The training loop. `train_step` is the algorithm, top to bottom; `train` puts a run around it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from softtokens.assemble import grader_of, problems_of, template_of, validation_problems
from softtokens.config import TrainConfig
from softtokens.evaluate.accuracy import accuracy
from softtokens.models.hf import HFPolicy, load_policy, resolve_device
from softtokens.rewards import Grader, RewardScale
from softtokens.rollout.batches import require_room, sample_problems
from softtokens.rollout.limits import Limits
from softtokens.rollout.memory import fitting_rows, fitting_tokens
from softtokens.rollout.record import Rollout
from softtokens.thoughts import Thought, build_thought
from softtokens.train import rundir
from softtokens.train.advantage import leave_one_out
from softtokens.train.checkpoint import Progress, load_optimizer, newest_checkpoint, save_checkpoint, tidy
from softtokens.train.data import problems_of_step
from softtokens.train.gradient import TOKENS_PER_BACKWARD, accumulate_gradient
from softtokens.train.loss import TermWeights
from softtokens.train.metrics import replay_metrics, reward_metrics, rollout_metrics
from softtokens.train.scoring import RewardFunction, Scorer, by_function, graded
from softtokens.train.tracking import JsonLines, Tracker, require_wandb
from softtokens.types import Problem, Verdict

log = logging.getLogger(__name__)
Listener = Callable[[int, dict[str, float]], None]  # called with the updates done and the step's metrics


@dataclasses.dataclass(frozen=True)
class Trainee:
    """What a step works on."""

    config: TrainConfig
    policy: HFPolicy
    optimizer: torch.optim.Optimizer
    thought: Thought
    problems: list[Problem]
    score: Scorer
    limits: Limits
    rows_at_a_time: int
    tokens_per_backward: int

    @property
    def parameters(self) -> list[torch.Tensor]:
        return self.optimizer.param_groups[0]["params"]


def train_step(t: Trainee, step: int) -> tuple[dict[str, float], list[dict]]:
    """One update. Returns the step's metrics and a few samples."""
    config, started = t.config, time.perf_counter()

    batch = problems_of_step(t.problems, step, config.problems_per_step, config.seed)
    group = [range(visit * config.group_size, (visit + 1) * config.group_size) for _, visit in batch]
    problems = [problem for problem, _ in batch]
    rollout = sample_problems(t.policy, t.thought, problems, group, t.limits, seed=config.seed, slots=t.rows_at_a_time)
    sampled = time.perf_counter()

    problem_of_row = [problem for problem in problems for _ in range(config.group_size)]
    scores, verdicts = t.score(problem_of_row, rollout.thought_texts, rollout.answer_texts)
    rewards = torch.tensor(scores, dtype=torch.float32, device=t.policy.device).view(len(batch), config.group_size)
    advantages = leave_one_out(rewards).flatten()
    scored = time.perf_counter()

    firsts = range(0, rollout.rows, config.group_size)
    samples = [_sample(step, rollout, row, problem_of_row[row], scores[row], verdicts) for row in firsts]
    order = rollout.lengths.argsort()  # rows of similar length share a backward pass
    rollout, advantages = rollout.take(order), advantages[order]
    measure_apart = config.term_norms_every > 0 and step % config.term_norms_every == 0
    seen, metrics = accumulate_gradient(
        t.policy,
        t.parameters,
        t.thought,
        rollout,
        advantages,
        TermWeights(config.thought_weight, config.answer_weight),
        answer_temperature=config.answer_temperature,
        tokens_per_backward=t.tokens_per_backward,
        apart=measure_apart or config.clip == "each",
        clip_each=config.clip_norm if config.clip == "each" else None,
    )
    max_norm = config.clip_norm if config.clip == "sum" and config.clip_norm > 0 else math.inf
    metrics["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(t.parameters, max_norm))
    _require_finite(metrics["grad_norm"], step)
    metrics["learning_rate"] = learning_rate(config, step)
    for parameter_group in t.optimizer.param_groups:
        parameter_group["lr"] = metrics["learning_rate"]
    t.optimizer.step()
    updated = time.perf_counter()

    metrics |= reward_metrics(rewards, verdicts) | rollout_metrics(rollout)
    metrics |= replay_metrics(rollout, seen, feeds_tokens=t.thought.feeds_tokens)
    metrics |= {
        "epoch": (step + 1) * config.problems_per_step / len(t.problems),
        "time/rollout": sampled - started,
        "time/grade": scored - sampled,
        "time/update": updated - scored,
        "time/step": updated - started,
        "tokens_per_second": metrics["num_tokens"] / (sampled - started),
    }
    return metrics, samples


def train(config: TrainConfig, *, reward_func: RewardFunction | None = None, listener: Listener | None = None) -> Path:
    """Train as configured; returns the run directory.

    reward_func: instead of the grader, `reward_func(prompts, completions, **columns) -> list of floats`.
    Raises UserError for what cannot work, CheckpointError when a checkpoint cannot be written.
    """
    # thoughts at tau 1e-4 leave softmax tails of denormal numbers, which processors compute very slowly
    torch.set_flush_denormal(True)
    run = rundir.check_output(config)
    require_wandb(config.wandb)
    problems = problems_of(config.task, default_split="train")
    validation = validation_problems(config) if config.validate_every else []
    found = newest_checkpoint(run) if config.resume else None
    if config.resume:
        log.info("going on from %s", found[0] if found else "the start: there is no checkpoint to resume")
    folder, progress = found or (None, Progress())
    policy = load_policy(folder or config.model, device=resolve_device(config.device), mask_unused=config.mask_unused)
    policy.template = template_of(config.task)
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay
    )
    if folder is not None:
        load_optimizer(folder, optimizer)

    judge = grader_of(config.task)
    scale = RewardScale(**dataclasses.asdict(config.reward))
    score = graded(judge, scale) if reward_func is None else by_function(reward_func)
    thought = build_thought(config.thought, policy.embedding_rms)
    thought.at(
        policy.vocabulary.table[:1], policy.vocabulary
    )  # refuses a top_k larger than the vocabulary now, not later
    limits = Limits(config.max_thought_steps, config.max_answer_tokens, config.answer_temperature)
    positions = require_room(policy, [*problems, *validation], limits)
    rows = fitting_rows(policy, config.problems_per_step * config.group_size, positions, limits)
    tokens = fitting_tokens(policy, config.tokens_per_backward or TOKENS_PER_BACKWARD[policy.device.type])
    trainee = Trainee(config, policy, optimizer, thought, problems, score, limits, rows, tokens)
    policy.prepare_decoding(config.decoding, config.steps * (config.max_thought_steps + config.max_answer_tokens))

    rundir.open_run(config)
    if folder is not None:
        tidy(run, progress)
    tracker = Tracker(
        run,
        keep_bytes=progress.metrics_bytes,
        start_step=progress.step + 1,
        wandb_project=config.wandb,
        config=dataclasses.asdict(config),
    )
    sample_lines = JsonLines(run / "samples.jsonl", progress.samples_bytes)
    with contextlib.ExitStack() as closing:
        for each in (judge, sample_lines, tracker):
            closing.callback(each.close)
        for step in range(progress.step, config.steps):
            metrics, samples = train_step(trainee, step)
            done = step + 1
            best = False
            if validation and (done % config.validate_every == 0 or done == config.steps):
                metrics["validation/accuracy"] = _validate(trainee, validation, judge)
                best = metrics["validation/accuracy"] > progress.best_accuracy
                if best:
                    progress = dataclasses.replace(
                        progress, best_step=done, best_accuracy=metrics["validation/accuracy"]
                    )
            tracker.log(done, metrics)
            for sample in samples:
                sample_lines.write(sample)
            if best or done % config.save_every == 0 or done == config.steps:
                progress = dataclasses.replace(
                    progress,
                    step=done,
                    metrics_bytes=tracker.lines.position(),
                    samples_bytes=sample_lines.position(),
                )
                save_checkpoint(run, policy, optimizer, progress)
            if listener is not None:
                listener(done, metrics)
    return run


def _sample(
    step: int, rollout: Rollout, row: int, problem: Problem, reward: float, verdicts: list[Verdict] | None
) -> dict:
    """One line of samples.jsonl."""
    return {
        "step": step + 1,
        "problem": problem.id,
        "prompt": problem.prompt,
        "thoughts": rollout.thought_texts[row],
        "answer": rollout.answer_texts[row],
        "expected": problem.answer,
        "stop": rollout.stop_reasons[row].value,
        "reward": reward,
        "verdict": verdicts[row].value if verdicts else None,
    }


def learning_rate(config: TrainConfig, step: int) -> float:
    """Of update 0, 1, ...: linear warm-up to the peak, then a cosine that reaches zero just after the last one."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    rest = max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - config.warmup_steps) / rest))


def _validate(t: Trainee, problems: list[Problem], judge: Grader) -> float:
    """Share of problems solved greedily in the mode that is trained: noise-free thoughts, greedy answers."""
    thought = build_thought(t.config.thought, t.policy.embedding_rms, greedy=True)
    limits = dataclasses.replace(t.limits, answer_temperature=0.0)
    return accuracy(t.policy, thought, problems, limits, judge, seed=t.config.seed)


def _require_finite(norm: float, step: int) -> None:
    if not math.isfinite(norm):
        raise FloatingPointError(
            f"the gradient norm of step {step + 1} is {norm}; the parameters were not changed. Lower the learning rate "
            "or thought_weight, or train fuzzy with a larger tau, and resume from the last checkpoint."
        )
