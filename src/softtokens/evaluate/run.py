"""Evaluate models in cells: model x task x setting. Finished cells are kept, unfinished ones continue."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from softtokens.config.evaluate import EvaluateConfig
from softtokens.config.task import TaskConfig
from softtokens.config.thought import AS_TRAINED
from softtokens.ending_setup import endings_of
from softtokens.evaluate.batch_size import BatchSize
from softtokens.evaluate.cells import Cell, cells_of
from softtokens.evaluate.evaluated_models import Models, task_entry
from softtokens.evaluate.folder import (
    SCHEMA,
    cell_folder,
    check_output,
    locked,
    read_result,
    register,
    trace_file,
)
from softtokens.evaluate.named_sources import named_sources
from softtokens.evaluate.outside import Outside
from softtokens.evaluate.profile import chosen_rows, profile, traces
from softtokens.evaluate.sample_file import write_samples
from softtokens.evaluate.sampling import Sampler
from softtokens.evaluate.share import SAMPLES, Share, remove_parts
from softtokens.evaluate.summary import summarize
from softtokens.files import json_text, read_json, write_atomically, write_json
from softtokens.models import thought_head
from softtokens.models.hf import HFPolicy
from softtokens.ops.denormals import flushing_denormals
from softtokens.rollout.batches import encode_prompts, require_room
from softtokens.rollout.decoder import Decoder
from softtokens.rollout.limits import Limits
from softtokens.task_setup import chat_of, grader_of, problems_of, with_prompts
from softtokens.thoughts import Thought, build_thought
from softtokens.types import Problem, UserError
from softtokens.world.launch import launch
from softtokens.world.processes import device_of

log = logging.getLogger(__name__)
SUMMARY, PROFILE = "summary.json", "profile.json"
_POLL_SECONDS = 0.5
_MERGE_SECONDS = 600  # a process waits this long while another one merges the same cell


@dataclasses.dataclass(frozen=True)
class Event:
    """New samples of a cell. done: number of all samples so far, including those of an earlier start, out of
    `total`. fresh: number of new samples, with their tokens and the seconds they took."""

    model: str
    task: str
    cell: str
    done: int
    total: int
    fresh: int = 0
    tokens: int = 0
    seconds: float = 0.0


Listener = Callable[[Event], None]


@dataclasses.dataclass(frozen=True)
class Task:
    """problems: without prompts where each model's own chat template makes them."""

    name: str
    config: TaskConfig
    problems: list[Problem]

    def problems_for(self, policy: HFPolicy) -> list[Problem]:
        """The problems as this model reads them."""
        return with_prompts(self.problems, self.config, policy.tokenizer)


@flushing_denormals()
def evaluate(config: EvaluateConfig, *, listener: Listener = lambda event: None) -> Path:
    """Evaluate as configured; returns the folder (docs/evaluation.md).

    Errors are detected before anything is written: every model is loaded once, and every prompt is measured. One of
    several processes does its share; under a launcher the main process then waits until the others have done theirs.
    """
    share = Share.of(config)
    config = dataclasses.replace(config, device=device_of(config.device, launch()))
    root = check_output(config.output)
    tasks = _tasks(config)
    outside = Outside.of(config)
    models = Models.of(config)
    outside.check(root, models)
    cells = {name: cells_of(config, models.thought_in_training(name)) for name in models.paths}
    _require_cells(config, cells, outside)
    described, limits = [], {}
    for name in models.paths:
        policy = models.load(name)
        limits[name] = _limits(name, policy, config)
        for task in tasks:
            require_room(policy, task.problems_for(policy), limits[name], name=f"task {task.name!r}")
            _warn_of_other_prompts(name, policy, task)
        outside.require_room(policy)
        for cell in cells[name]:
            _thought_for(cell, policy)
        described.append(models.describe(name))
    entry = {
        "schema": SCHEMA,
        "config": json.loads(json.dumps(dataclasses.asdict(config))),  # to be compared with that of a file
        "models": described,
        "tasks": [task_entry(task.name, task.config, task.problems) for task in tasks],
        "settings": _names_of(cells, config),
    }
    register(root, entry)
    count = _Counter(config, tasks, cells, listener, share)
    for name in models.paths:
        with locked(root, name if share.is_main else f"{name} part {share.rank} of {share.size}"):
            decoder = Decoder(models.load(name))
            for task in tasks if cells[name] else ():
                _evaluate_task(root, name, decoder, task, cells[name], config, limits[name], count, share)
            outside.evaluate(root, name, models, share)
    if share.waits and share.is_main:
        _wait_for_others(root, tasks, cells, outside, count)
    return root


def _wait_for_others(
    root: Path, tasks: list[Task], cells: dict[str, list[Cell]], outside: Outside, count: _Counter
) -> None:
    """Until every file is there. A launcher ends this process when another one fails."""

    def missing() -> bool:
        for name, of_model in cells.items():
            for task, cell in itertools.product(tasks, of_model):
                if not count.is_complete(read_result(cell_folder(root, name, task.name, cell.name) / SUMMARY), cell):
                    return True
        return any(not file.is_file() for name in cells for file in outside.files(root, name, list(cells)))

    while missing():
        time.sleep(_POLL_SECONDS)


def _limits(model: str, policy: HFPolicy, config: EvaluateConfig) -> Limits:
    """How this model thinks and answers. Warns when its thoughts ended otherwise in training."""
    endings = endings_of(
        config.endings, policy.tokenizer, chat_of(config.task), max_answer_tokens=config.max_answer_tokens
    )
    if policy.endings not in (None, endings):
        log.warning(
            "the thoughts of model %r end otherwise here than in its training; give the --chat, --endings, "
            "--thought-end and --forced-text of its run",
            model,
        )
    return Limits(config.max_thought_steps, config.max_answer_tokens, answer_temperature=0.0, endings=endings)


def _warn_of_other_prompts(model: str, policy: HFPolicy, task: Task) -> None:
    """Warn when a model was trained on chat prompts and the task has plain ones, or the other way round."""
    if policy.template is not None and (policy.chat is None) == task.config.chat:
        trained, has = ("chat", "plain text") if policy.chat else ("plain text", "chat")
        log.warning(
            "model %r was trained on %s prompts, and task %r has %s prompts; %s --chat",
            model, trained, task.name, has, "add" if policy.chat else "drop",
        )  # fmt: skip


def _require_cells(config: EvaluateConfig, cells: dict[str, list[Cell]], outside: Outside) -> None:
    """Log which models have no training run and therefore no cell as-trained. UserError when nothing is left to
    evaluate."""
    untrained = [name for name, of_model in cells.items() if all(cell.setting != AS_TRAINED for cell in of_model)]
    if AS_TRAINED not in config.settings or not untrained:
        return
    names = ", ".join(untrained)
    if not any(cells.values()) and not outside.has_any:
        raise UserError(
            f"settings is as-trained, but no training run belongs to {names}; give run directories or checkpoints in "
            "them, or name other settings"
        )
    log.info("no training run belongs to %s, so there is nothing to evaluate as-trained", names)


def _names_of(cells: dict[str, list[Cell]], config: EvaluateConfig) -> list[str]:
    """The cells of all models, in the order of the settings."""
    of_all = [cell for of_model in cells.values() for cell in of_model]
    return list(dict.fromkeys(cell.name for cell in sorted(of_all, key=lambda c: config.settings.index(c.setting))))


def _tasks(config: EvaluateConfig) -> list[Task]:
    configs = config.task_configs
    named = named_sources("tasks", [task.name for task in configs])
    tasks = []
    for (name, source), task in zip(named.items(), configs, strict=True):
        task = dataclasses.replace(task, name=source)
        tasks.append(Task(name, task, problems_of(task, default_split="test")))
    return tasks


def _evaluate_task(
    root: Path,
    model: str,
    decoder: Decoder[HFPolicy],
    task: Task,
    cells: list[Cell],
    config: EvaluateConfig,
    limits: Limits,
    count: _Counter,
    share: Share,
) -> None:
    grader = grader_of(task.config)
    policy = decoder.policy
    batch_size = BatchSize(policy, rows=config.rows_per_batch, memory=config.memory)
    problems = task.problems_for(policy)
    rollouts = len(cells) * len(problems) * config.samples
    at_a_time = batch_size.allowed(encode_prompts(policy, problems), limits)
    steps = rollouts // at_a_time * (limits.max_thought_steps + limits.max_answer_tokens)
    decoder.prepare(config.decoding, steps, ways=len(cells))
    sampler = Sampler(decoder, problems, limits, grader, config.seed, batch_size)
    try:
        for number, cell in enumerate(cells):
            thought = _thought_for(cell, policy)
            count.begin(model, task.name, cell)
            folder = cell_folder(root, model, task.name, cell.name)
            fill_cell(folder, sampler, thought, cell, count, share)
            with locked(root, f"{model} {task.name} {cell.name}", timeout=_MERGE_SECONDS):
                summary = merge_cell(folder, sampler, model, task.name, cell, count, share)
            if not share.has(number):
                continue
            if config.profile:
                samples = count.samples(cell) if summary is None else summary["samples"]
                _profile_into(folder / PROFILE, sampler, thought, samples, config.profile)
            if config.traces:
                names = {"model": model, "task": task.name, "cell": cell.name}
                _trace_into(trace_file(root, *names.values()), sampler, thought, names, config.traces)
    finally:
        grader.close()


def fill_cell(folder: Path, sampler: Sampler, thought: Thought, cell: Cell, count: _Counter, share: Share) -> None:
    """Draw this process's share of what is missing in a cell. A cell with more samples than requested is not
    changed."""
    problem_ids, rows = [problem.id for problem in sampler.problems], sampler.rows(count.samples(cell), share)
    if count.is_complete(read_result(folder / SUMMARY), cell):
        count.already_there(len(rows))
        return
    done = {(sample["problem"], sample["sample"]) for sample in share.samples(folder, problem_ids, sampler.seed)}
    missing = [(i, n) for i, n in rows if (problem_ids[i], n) not in done]
    count.already_there(len(rows) - len(missing))
    sampler.fill(thought, missing, share.file(folder), count.drawn)


def merge_cell(
    folder: Path, sampler: Sampler, model: str, task: str, cell: Cell, count: _Counter, share: Share
) -> dict[str, Any] | None:
    """The summary of a cell, once all samples of all processes are there; None before."""
    summary = read_result(folder / SUMMARY)
    if count.is_complete(summary, cell):
        return summary
    problem_ids, wanted = [problem.id for problem in sampler.problems], count.samples(cell)
    place = {problem_id: i for i, problem_id in enumerate(problem_ids)}
    samples = share.samples(folder, problem_ids, sampler.seed)
    samples.sort(key=lambda sample: (place[sample["problem"]], sample["sample"]))
    used = [sample for sample in samples if sample["sample"] < wanted]
    if len(used) < wanted * len(problem_ids):
        return None
    write_samples(folder / SAMPLES, samples)
    reasons = sampler.limits.endings.reasons
    summary = summarize(used, problem_ids, model, task, cell, sampler.seed, sampler.grader, reasons)
    write_json(folder / SUMMARY, summary)
    remove_parts(folder)
    return summary


def _profile_into(file: Path, sampler: Sampler, thought: Thought, samples: int, most: int) -> None:
    rows = chosen_rows(len(sampler.problems), samples, most)
    measured = read_json(file)
    if measured is None or measured.get("generations", 0) < len(rows):
        write_json(file, profile(sampler, thought, rows))


def _trace_into(file: Path, sampler: Sampler, thought: Thought, names: dict[str, str], most: int) -> None:
    rows = [(i, 0) for i in range(min(most, len(sampler.problems)))]
    if not file.is_file() or file.read_bytes().count(b"\n") < len(rows):
        write_atomically(file, "".join(json_text(trace) + "\n" for trace in traces(sampler, thought, rows, names)))


def thought_of(cell: Cell, embedding_rms: float) -> Thought:
    """How the model thinks in a cell."""
    return build_thought(cell.thought, embedding_rms, greedy=cell.is_greedy)


def _thought_for(cell: Cell, policy: HFPolicy) -> Thought:
    """The same, after giving the policy's model the head that these thoughts need. UserError where it has none."""
    thought = thought_of(cell, policy.embedding_rms)
    thought_head.require(policy.model, thought.new_head)
    return thought


class _Counter:
    """Counts samples for the progress display."""

    def __init__(
        self,
        config: EvaluateConfig,
        tasks: list[Task],
        cells: dict[str, list[Cell]],
        listener: Listener,
        share: Share,
    ):
        """cells: of each model. Only the samples of this process's share are counted."""
        self._config, self._listener = config, listener
        per_problem = sum(self.samples(cell) for of_model in cells.values() for cell in of_model)
        self._total = per_problem * sum(share.has(i) for task in tasks for i in range(len(task.problems)))
        self._done = 0
        self._where = ("", "", "")

    def samples(self, cell: Cell) -> int:
        """Samples per problem. Greedy settings are deterministic, so they take one."""
        return 1 if cell.is_greedy else self._config.samples

    def is_complete(self, summary: dict[str, Any] | None, cell: Cell) -> bool:
        """Whether a cell has all samples that are wanted, given its summary."""
        if summary is None or summary.get("schema") != SCHEMA:
            return False
        return bool(summary.get("samples", 0) >= self.samples(cell))

    def begin(self, model: str, task: str, cell: Cell) -> None:
        self._where = (model, task, cell.name)

    def already_there(self, samples: int) -> None:
        self._done += samples
        self._listener(Event(*self._where, self._done, self._total))

    def drawn(self, samples: list[dict[str, Any]]) -> None:
        self._done += len(samples)
        tokens = sum(sample["thought_length"] + sample["answer_length"] for sample in samples)
        seconds = sum(sample["seconds"] for sample in samples)
        self._listener(Event(*self._where, self._done, self._total, len(samples), tokens, seconds))
