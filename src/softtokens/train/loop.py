"""A training run: set-up, training steps, validation, checkpoints, logs, and an orderly end."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from softtokens.config.train import TrainConfig
from softtokens.rewards import Grader
from softtokens.rollout.batches import require_room
from softtokens.rollout.decoder import Decoder
from softtokens.rollout.limits import Limits
from softtokens.task_setup import grader_of, task_data, validation_problems, validation_task, with_prompts
from softtokens.thoughts import build_thought
from softtokens.train import run_folder
from softtokens.train.checkpoint import Progress, load_optimizer, save_checkpoint, tidy
from softtokens.train.interrupt import Stopped, StopRequest
from softtokens.train.problem_record import Record, record_of, require_same, write
from softtokens.train.resume import find_start
from softtokens.train.scoring import RewardError, RewardFunction, columns_of, require_reward_function, scorer
from softtokens.train.setup import batch_sizes_of, load_weights, training_endings
from softtokens.train.skipped_step import save_skipped_step
from softtokens.train.step import Step, train_step
from softtokens.train.tracking import Logs, require_wandb
from softtokens.train.trainee import Trainee
from softtokens.train.validation import validate, with_validation_of
from softtokens.types import Problem, UserError
from softtokens.world.launch import launch
from softtokens.world.processes import World, join

log = logging.getLogger(__name__)
Listener = Callable[[int, dict[str, float]], None]  # called with the updates done and the step's metrics


def train(config: TrainConfig, *, reward_func: RewardFunction | None = None, listener: Listener | None = None) -> Path:
    """Train as configured; returns the run directory. Under torchrun or srun, this is one of several processes.

    reward_func: replaces the grader, `reward_func(prompts, completions, **columns) -> list of floats`. Every process
    calls it with its own rollouts. listener: called in the main process after every step.
    Raises UserError for an unusable configuration, CheckpointError when a checkpoint cannot be written, Stopped after
    SIGTERM or Ctrl-C once everything is saved, and FloatingPointError after too many skipped steps in a row.
    """
    if reward_func is not None:
        require_reward_function(reward_func)
    lock = run_folder.RunLock(run_folder.folder_of(config))
    with join(launch(), config.device) as world, StopRequest().listening() as stop, contextlib.closing(lock):
        return _train(config, world, stop, lock, reward_func, listener)


def _train(
    config: TrainConfig,
    world: World,
    stop: StopRequest,
    lock: run_folder.RunLock,
    reward_func: RewardFunction | None,
    listener: Listener | None,
) -> Path:
    run, config, checkpoint = world.from_main(lambda: find_start(config, lock))
    require_wandb(config.wandb)
    rows = config.problems_per_step * config.group_size
    if rows < world.size:
        raise UserError(
            f"there are {world.size} processes for problems_per_step * group_size = {rows} rollouts; start fewer, or "
            "make more rollouts"
        )
    data = task_data(config.task, default_split="train", needs_answers=reward_func is None and config.reward.grades)
    problems = with_prompts(data.problems, config.task, config.model)
    judge = grader_of(config.task)
    score = scorer(config.reward, judge, reward_func, columns=columns_of(problems))
    validation = validation_problems(config) if config.validate_every else []
    record = record_of(training=problems, validation=validation)
    world.from_main(lambda: require_same(run, {"training": record["training"]}))
    folder, progress = checkpoint or (None, Progress())
    progress = with_validation_of(progress, record, config.best_by)
    endings = training_endings(config)
    weights = load_weights(config, folder, world, data.template, endings)
    limits = Limits(config.max_thought_steps, config.max_answer_tokens, config.answer_temperature, endings)
    positions = require_room(weights.sampler, problems, limits, name="the task")
    if validation:
        positions = max(positions, require_room(weights.sampler, validation, limits, name="validation"))
    batch_sizes = batch_sizes_of(
        config, weights, positions, limits, len(validation)
    )  # the optimizer's state is still to come
    optimizer = torch.optim.AdamW(
        weights.parameters.values(),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
    )
    if folder is not None:
        load_optimizer(folder, weights, optimizer)

    validator = grader_of(validation_task(config))
    sampler = weights.sampler
    thought = build_thought(config.thought, sampler.embedding_rms)
    thought.at(
        sampler.vocabulary.table[:1], sampler.vocabulary
    )  # refuses a top_k larger than the vocabulary now, not later
    steps = config.steps * (config.max_thought_steps + config.max_answer_tokens)
    decoder = Decoder(sampler).prepare(config.decoding, steps, ways=2 + len(config.validation_settings))
    trainee = Trainee(config, weights, optimizer, thought, problems, score, limits, batch_sizes, decoder, stop)

    with contextlib.ExitStack() as closing:
        closing.callback(judge.close)
        closing.callback(validator.close)
        world.from_main(lambda: _open(config, lock, run, record))
        logs = Logs(config, run, progress, closing) if world.is_main else None
        world.from_main(lambda: tidy(run, progress) if folder is not None and folder.is_relative_to(run) else None)
        _Run(trainee, run, validation, validator, logs, listener).go(progress)
    return run


def _open(config: TrainConfig, lock: run_folder.RunLock, run: Path, record: Record) -> None:
    run_folder.open_run(config)
    lock.take()
    write(run, record)


class _Run:
    """Steps one after the other, from wherever the run is."""

    def __init__(
        self,
        trainee: Trainee,
        run: Path,
        validation: list[Problem],
        judge: Grader,
        logs: Logs | None,
        listener: Listener | None,
    ):
        self.trainee, self.run, self.validation, self.judge = trainee, run, validation, judge
        self.logs, self.listener = logs, listener

    def go(self, progress: Progress) -> None:
        t, config, world, saved = self.trainee, self.trainee.config, self.trainee.world, progress.step
        while progress.step < config.steps:
            at = progress.step
            try:
                step = t.stop.attempt(functools.partial(train_step, t, at), droppable=world.size == 1)
            except RewardError:
                if progress.step > saved:
                    self._save(progress)
                raise
            if step is not None:
                best_before, progress = progress.best_step, self._taken(step, progress)
                ends = progress.step == config.steps or progress.skipped_in_row >= config.max_skipped
                if ends or progress.best_step != best_before or progress.step % config.save_every == 0:
                    self._save(progress)
                    saved = progress.step
                if self.listener is not None and world.is_main:
                    self.listener(progress.step, step.metrics)
                if progress.skipped_in_row >= config.max_skipped:
                    raise FloatingPointError(self._advice(progress, step.broken))
            asked = next(filter(None, world.gather(t.stop.asked)), None)
            if asked and progress.step < config.steps:
                if progress.step > saved:
                    self._save(progress)
                state = "all of them are saved" if progress.step else "there is nothing to save yet"
                raise Stopped(f"stopped by {asked} after {progress.step} of {config.steps} steps; {state}.")

    def _taken(self, step: Step, progress: Progress) -> Progress:
        """Where the run is after a step, which is validated if it is time, and logged."""
        t, config, done = self.trainee, self.trainee.config, progress.step + 1
        skipped = 0 if step.broken is None else progress.skipped_in_row + 1
        if skipped:
            log.warning("step %d is skipped: %s", done, step.broken)
            first = done - skipped + 1
            settings = run_folder.resolved(config)
            save_skipped_step(self.run, t, done, step, config=settings, model_of_step=first, keep=config.keep_repro)
        progress = dataclasses.replace(progress, step=done, skipped_in_row=skipped)
        # of a skipped step there is nothing new to validate, and its model may be unable to answer
        if self.validation and not skipped and (done % config.validate_every == 0 or done == config.steps):
            step.metrics.update(validate(t, self.validation, self.judge))
            value = step.metrics[f"validation/{config.best_by}"]
            if value > progress.best_accuracy:
                progress = dataclasses.replace(progress, best_step=done, best_accuracy=value)
        if self.logs is not None:
            self.logs.write(done, step.metrics, step.samples)
        return progress

    def _save(self, progress: Progress) -> None:
        if self.logs is not None:
            lengths = (self.logs.tracker.lines.position(), self.logs.samples.position())
            progress = dataclasses.replace(progress, metrics_bytes=lengths[0], samples_bytes=lengths[1])
        save_checkpoint(self.run, self.trainee.weights, self.trainee.optimizer, progress)

    def _against_spikes(self) -> str:
        mode = self.trainee.config.thought.mode
        tau = ", or train with a larger tau" if mode == "fuzzy" else ""
        return "" if mode == "hard" else f", turn on clip_spikes{tau}"

    def _advice(self, progress: Progress, why: str | None) -> str:
        return (
            f"{progress.skipped_in_row} steps in a row had numbers that are not finite, the last one {progress.step} "
            f"({why}); the parameters are those before them. Look at one with softtokens replay-step "
            f"{self.run / 'repro'}/step-*.safetensors, one at a time; lower the learning rate, the rewards or a term's "
            f"weight (thought_weight, answer_weight){self._against_spikes()}."
        )
