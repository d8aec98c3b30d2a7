"""A training run: what `step.train_step` needs; around it validation, checkpoints, logs, and an end in good order."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from softtokens.config.train import TrainConfig
from softtokens.evaluate.sampling import count_right
from softtokens.models import lora
from softtokens.models.blocks import blocks, recompute_activations
from softtokens.models.hf import HFPolicy, load_policy
from softtokens.rewards import Grader
from softtokens.rollout.batches import require_room
from softtokens.rollout.decoder import Decoder
from softtokens.rollout.limits import Limits, emitted_positions
from softtokens.rollout.memory import free_bytes
from softtokens.task_setup import grader_of, task_data, validation_problems, validation_task
from softtokens.thoughts import build_thought
from softtokens.train import rundir
from softtokens.train.batch_sizes import BatchSizes, Share, choose
from softtokens.train.checkpoint import (
    Progress,
    checkpoint_to_start_at,
    load_optimizer,
    newest_checkpoint,
    save_checkpoint,
    tidy,
)
from softtokens.train.interrupt import Stopped, StopRequest
from softtokens.train.problem_record import Record, record_of, require_same, write
from softtokens.train.process_memory import map_blocks_apart
from softtokens.train.scoring import RewardFunction, by_function, graded, require_reward_function
from softtokens.train.skipped_step import save_case
from softtokens.train.step import Step, Trainee, train_step
from softtokens.train.tracking import JsonLines, Tracker, require_wandb
from softtokens.train.weights import Sharded, Weights, WithMasters
from softtokens.types import Problem, UserError
from softtokens.world.launch import launch
from softtokens.world.processes import World, join

log = logging.getLogger(__name__)
Listener = Callable[[int, dict[str, float]], None]  # called with the updates done and the step's metrics


def train(config: TrainConfig, *, reward_func: RewardFunction | None = None, listener: Listener | None = None) -> Path:
    """Train as configured; returns the run directory. Started by torchrun or srun, this is one of several processes.

    reward_func: instead of the grader, `reward_func(prompts, completions, **columns) -> list of floats`; every process
    calls it with its own rollouts. listener: called in the main process.
    Raises UserError for what cannot work, CheckpointError when a checkpoint cannot be written, Stopped after SIGTERM or
    Ctrl-C when all is saved, FloatingPointError when too many steps in a row had to be left out.
    """
    if reward_func is not None:
        require_reward_function(reward_func)
    hold = rundir.Hold(rundir.folder_of(config))
    with join(launch(), config.device) as world, StopRequest().listening() as stop, contextlib.closing(hold):
        return _train(config, world, stop, hold, reward_func, listener)


def _train(
    config: TrainConfig,
    world: World,
    stop: StopRequest,
    hold: rundir.Hold,
    reward_func: RewardFunction | None,
    listener: Listener | None,
) -> Path:
    run, config, checkpoint = world.from_main(lambda: _start(config, hold))
    require_wandb(config.wandb)
    rows = config.problems_per_step * config.group_size
    if rows < world.size:
        raise UserError(
            f"there are {world.size} processes for problems_per_step * group_size = {rows} rollouts; start fewer, or "
            "make more rollouts"
        )
    data = task_data(config.task, default_split="train", needs_answers=reward_func is None)
    problems = data.problems
    validation = validation_problems(config) if config.validate_every else []
    record = record_of(training=problems, validation=validation)
    world.from_main(lambda: require_same(run, {"training": record["training"]}))
    folder, progress = checkpoint or (None, Progress())
    progress = _of_validation(progress, record)
    weights = load_weights(config, folder, world, data.template)
    limits = Limits(config.max_thought_steps, config.max_answer_tokens, config.answer_temperature)
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

    judge, validator = grader_of(config.task), grader_of(validation_task(config))
    score = graded(judge, config.reward.of) if reward_func is None else by_function(reward_func)
    sampler = weights.sampler
    thought = build_thought(config.thought, sampler.embedding_rms)
    thought.at(
        sampler.vocabulary.table[:1], sampler.vocabulary
    )  # refuses a top_k larger than the vocabulary now, not later
    steps = config.steps * (config.max_thought_steps + config.max_answer_tokens)
    decoder = Decoder(sampler).prepare(config.decoding, steps, ways=2)  # with noise, and greedily for validation
    trainee = Trainee(config, weights, optimizer, thought, problems, score, limits, batch_sizes, decoder, stop)

    with contextlib.ExitStack() as closing:
        closing.callback(judge.close)
        closing.callback(validator.close)
        world.from_main(lambda: (rundir.open_run(config), hold.take(), write(run, record)))
        logs = _Logs(config, run, progress, closing) if world.is_main else None
        world.from_main(lambda: tidy(run, progress) if folder is not None and folder.is_relative_to(run) else None)
        _Run(trainee, run, validation, validator, logs, listener).go(progress)
    return run


def _start(config: TrainConfig, hold: rundir.Hold) -> tuple[Path, TrainConfig, tuple[Path, Progress] | None]:
    """The run's folder, its configuration with the checkpoint that it began at, and the one to go on from."""
    config = rundir.with_recorded_start(config)
    run = rundir.check_output(config)
    hold.take()
    checkpoint = newest_checkpoint(run) if config.resume else None
    if checkpoint is not None:
        changed = rundir.changed_since(run, config)
        if "steps" in changed and config.schedule != "constant":
            log.warning(
                "steps grew: the learning rate follows the %s of %d steps from here", config.schedule, config.steps
            )
    if checkpoint is None and config.start is not None:
        folder, progress = checkpoint = checkpoint_to_start_at(config.start)
        if progress.step >= config.steps:
            raise UserError(
                f"from is {config.start!r}, which has done {progress.step} updates; steps is {config.steps} and "
                "counts them, so raise it"
            )
        source = folder.parents[1]
        rundir.require_same_model(source, config)
        if not config.resume:  # of a run that goes on, the last one is another one tomorrow
            config = dataclasses.replace(config, start=f"{source}@{progress.step}")
    if config.resume or config.start is not None:
        log.info("going on from %s", checkpoint[0] if checkpoint else "the start: there is no checkpoint to resume")
    return run, config, checkpoint


def rounding_of(config: TrainConfig) -> torch.dtype | None:
    """What finished logits are rounded to."""
    return None if config.logits_dtype == "float32" else getattr(torch, config.logits_dtype)


def _of_validation(progress: Progress, record: Record) -> Progress:
    """The record of the best checkpoint begins anew on other problems: accuracies do not compare."""
    validation = record["validation"]
    if not validation["problems"] or progress.validation == validation["sha256"]:
        return progress
    if progress.best_step is not None:
        log.warning("the validation problems are others than before; the best checkpoint is chosen anew")
    return dataclasses.replace(progress, best_step=None, best_accuracy=-1.0, validation=validation["sha256"])


def load_weights(config: TrainConfig, folder: Path | None, world: World, template: str) -> Weights:
    """The policy, from a checkpoint if there is one, in the form that the configuration asks for. template: of the
    problems it is trained on."""
    scale = config.scale

    def load(device: torch.device) -> HFPolicy:
        policy = load_policy(
            folder or config.model, device=device, mask_unused=config.mask_unused, merge_adapters=False
        )
        policy.template = template
        policy.logits_rounding = rounding_of(config)
        if scale.lora_rank and not lora.has_adapters(policy.model):
            lora.add(policy.model, scale.lora_rank, scale.lora_alpha, scale.lora_targets, seed=config.seed)
        return policy

    dtype = getattr(torch, scale.dtype)
    if scale.parallel in ("fsdp", "hsdp") and world.size > 1:
        map_blocks_apart(world.device)
        in_main_memory = torch.device("cpu")
        return Sharded(lambda: load(in_main_memory), world, hybrid=scale.parallel == "hsdp", dtype=dtype)
    policy = load(world.device)
    return Weights(policy, world) if dtype == torch.float32 else WithMasters(policy, world)


def batch_sizes_of(
    config: TrainConfig, weights: Weights, positions: int, limits: Limits, validation: int
) -> BatchSizes:
    """How much runs at a time, in all processes. positions: of the longest rollout, with its prompt. validation:
    problems. Where memory asks for it, activations are recomputed from here on."""
    world, group = weights.world, config.group_size
    rows = world.share(config.problems_per_step * group)
    emitted = emitted_positions(weights.sampler, limits)
    share = Share(
        rows=len(rows),
        prompts=len({row // group for row in rows}),
        prompt_positions=positions - emitted,
        emitted=emitted,
        validated=len(world.share(validation)),
    )
    free = free_bytes(world.device)
    sizes = choose(config, weights.size, share, kind=world.device.type, free=free, shards=weights.shards)
    sizes.recomputes = any(world.gather(sizes.recomputes))
    if sizes.recomputes:
        recompute_activations(weights.blocks or blocks(weights.policy.model))  # which says why there are none
    if sizes.slots < share.rows:
        log.warning("memory holds %d of the %d rollouts at a time; the others wait", sizes.slots, share.rows)
    return sizes


class _Logs:
    """metrics.jsonl and the trackers, samples.jsonl: the main process has them."""

    def __init__(self, config: TrainConfig, run: Path, progress: Progress, closing: contextlib.ExitStack):
        self.tracker = Tracker(
            run,
            keep_bytes=progress.metrics_bytes,
            start_step=progress.step + 1,
            wandb_project=config.wandb,
            config=dataclasses.asdict(config),
        )
        closing.callback(self.tracker.close)
        self.samples = JsonLines(run / "samples.jsonl", progress.samples_bytes)
        closing.callback(self.samples.close)

    def write(self, done: int, metrics: dict[str, float], samples: list[dict]) -> None:
        self.tracker.log(done, metrics)
        for sample in samples:
            self.samples.write(sample)


class _Run:
    """Steps one after the other, from wherever the run is."""

    def __init__(
        self,
        trainee: Trainee,
        run: Path,
        validation: list[Problem],
        judge: Grader,
        logs: _Logs | None,
        listener: Listener | None,
    ):
        self.trainee, self.run, self.validation, self.judge = trainee, run, validation, judge
        self.logs, self.listener = logs, listener

    def go(self, progress: Progress) -> None:
        t, config, world, saved = self.trainee, self.trainee.config, self.trainee.world, progress.step
        while progress.step < config.steps:
            at = progress.step
            step = t.stop.attempt(lambda at=at: train_step(t, at), droppable=world.size == 1)
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
                raise Stopped(f"stopped by {asked} after {progress.step} of {config.steps} steps")

    def _taken(self, step: Step, progress: Progress) -> Progress:
        """Where the run is after a step, which is validated if it is time, and logged."""
        t, config, done = self.trainee, self.trainee.config, progress.step + 1
        skipped = 0 if step.broken is None else progress.skipped_in_row + 1
        if skipped:
            log.warning("step %d is skipped: %s", done, step.broken)
            first = done - skipped + 1
            settings = rundir.resolved(config)
            save_case(self.run, t, done, step, config=settings, model_of_step=first, keep=config.keep_repro)
        progress = dataclasses.replace(progress, step=done, skipped_in_row=skipped)
        # of a skipped step there is nothing new to validate, and its model may be unable to answer
        if self.validation and not skipped and (done % config.validate_every == 0 or done == config.steps):
            accuracy = _validate(t, self.validation, self.judge)
            step.metrics["validation/accuracy"] = accuracy
            if accuracy > progress.best_accuracy:
                progress = dataclasses.replace(progress, best_step=done, best_accuracy=accuracy)
        if self.logs is not None:
            self.logs.write(done, step.metrics, step.samples)
        return progress

    def _save(self, progress: Progress) -> None:
        if self.logs is not None:
            lengths = {"metrics_bytes": self.logs.tracker.lines, "samples_bytes": self.logs.samples}
            progress = dataclasses.replace(progress, **{name: lines.position() for name, lines in lengths.items()})
        save_checkpoint(self.run, self.trainee.weights, self.trainee.optimizer, progress)

    def _against_spikes(self) -> str:
        mode = self.trainee.config.thought.mode
        tau = ", or train with a larger tau" if mode == "fuzzy" else ""
        return "" if mode == "hard" else f", turn on clip_spikes{tau}"

    def _advice(self, progress: Progress, why: str) -> str:
        return (
            f"{progress.skipped_in_row} steps in a row had numbers that are not finite, the last one {progress.step} "
            f"({why}); the parameters are those before them. Look at one with softtokens replay-step "
            f"{self.run / 'repro'}/step-*.safetensors, one at a time; lower the learning rate, the rewards or a term's "
            f"weight (thought_weight, answer_weight){self._against_spikes()}."
        )


def _validate(t: Trainee, problems: list[Problem], judge: Grader) -> float:
    """Share of problems solved greedily in the mode that is trained: noise-free thoughts, greedy answers."""
    sampler = t.weights.sampler
    thought = build_thought(t.config.thought, sampler.embedding_rms, greedy=True)
    limits = dataclasses.replace(t.limits, answer_temperature=0.0)
    my_problems = [problems[i] for i in t.world.share(len(problems))]

    def solved(slots: int) -> int:
        return count_right(t.decoder, thought, my_problems, limits, judge, seed=t.config.seed, slots=slots)

    counts = t.world.gather(t.world.together(lambda: t.batch_sizes.sampling("validation_slots", t.decoder, solved)))
    return sum(counts) / len(problems)
