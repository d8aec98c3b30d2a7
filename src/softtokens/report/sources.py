"""Find and read the training runs and evaluations under the given folders."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softtokens.config.thought import FAMILIES, SETTINGS
from softtokens.files import expanded
from softtokens.report.readers import (
    note_schema,
    number,
    read_object,
    read_rows,
    rows_of,
    table,
    text,
)
from softtokens.types import UserError

DEEPEST = 4  # levels of subfolders that are searched
_NOT_SEARCHED = {"checkpoints", "tensorboard", "cells", "traces", "choices", "preservation"}
_SAMPLES_READ = 200_000
_TRACES_READ = 64  # per model, task and cell


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run."""

    name: str
    path: Path
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    samples: list[dict[str, Any]]

    @property
    def mode(self) -> str:
        return text(table(self.config.get("thought")).get("mode"), "unknown")

    @property
    def task(self) -> str:
        return text(table(self.config.get("task")).get("name"), "unknown")

    @property
    def model(self) -> str:
        return text(self.config.get("model"), "unknown")

    @property
    def seed(self) -> str:
        return text(self.config.get("seed"), "?")[:20]

    @property
    def tau(self) -> float | None:
        tau = number(table(self.config.get("thought")).get("tau"))
        return FAMILIES[self.mode].temperature if tau is None and self.mode in FAMILIES else tau

    @property
    def gamma(self) -> float | None:
        return (
            None
            if self.mode in FAMILIES and not FAMILIES[self.mode].has_gamma
            else number(table(self.config.get("thought")).get("gamma"))
        )

    def column(self, key: str) -> tuple[list[float], list[float]]:
        """Steps and values of a metric where it was measured."""
        pairs = [(number(row.get("step")), number(row.get(key))) for row in self.metrics]
        points = [(step, value) for step, value in pairs if step is not None and value is not None]
        return [step for step, _ in points], [value for _, value in points]

    def total(self, key: str) -> float | None:
        values = self.column(key)[1]
        return sum(values) if values else None


@dataclasses.dataclass(frozen=True)
class Model:
    """One evaluated model."""

    name: str
    path: str
    trained: dict[str, Any] | None
    run: Run | None = None

    @property
    def mode(self) -> str:
        return "base" if self.trained is None else text(self.trained.get("mode"), "unknown")

    @property
    def seed(self) -> str:
        return text(table(self.trained).get("seed"), "?")[:20]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One finished cell of an evaluation: a model on a task in one setting."""

    model: str
    task: str
    name: str
    file: Path
    summary: dict[str, Any]
    profile: dict[str, Any] | None

    @property
    def setting(self) -> str:
        return text(self.summary.get("setting"), self.name.split("_")[0])

    @property
    def mode(self) -> str:
        """The mode of the thoughts in this cell."""
        setting = SETTINGS.get(self.setting)
        mode = text(table(self.summary.get("thought")).get("mode"))
        return mode or ("unknown" if setting is None else setting.thought.mode)


@dataclasses.dataclass
class Sources:
    """Everything that was read. `notes`: sentences about what could not be read."""

    given: list[str]
    runs: list[Run] = dataclasses.field(default_factory=list)
    models: dict[str, Model] = dataclasses.field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    cells: dict[tuple[str, str, str], Cell] = dataclasses.field(default_factory=dict)
    traces: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    choices: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    preservation: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    evaluations: list[Path] = dataclasses.field(default_factory=list)
    signals: list[tuple[Path, dict[str, Any]]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def load(paths: Sequence[str]) -> Sources:
    """Read training runs, evaluations, measurements of signal and folders that hold them, in any mix.

    Raises UserError for a path that does not exist, or when nothing under the paths can be reported on.
    """
    sources = Sources(given=list(paths))
    runs, evaluations, signals = find(paths, sources.notes)
    names = _names(runs)
    sources.runs = [_read_run(path, name, sources.notes) for path, name in zip(runs, names, strict=True)]
    for path in evaluations:
        _read_evaluation(path, sources)
    for file in signals:
        if (measured := read_object(file, sources.notes)) is not None:
            note_schema(file, measured, sources.notes)
            sources.signals.append((file, measured))
    if not runs and not evaluations and not sources.signals:
        hint = " ".join(sources.notes)
        raise UserError(
            f"runs is {', '.join(repr(p) for p in paths)}, where there is neither a training run (config.json and "
            f"metrics.jsonl) nor an evaluation (evaluation.json) nor a signal.json. {hint}".rstrip()
        )
    return sources


def find(paths: Sequence[str], notes: list[str]) -> tuple[list[Path], list[Path], list[Path]]:
    """Folders of training runs and of evaluations, and signal.json files, at or below the given paths. Each appears
    once, in a stable order."""
    runs: dict[Path, Path] = {}
    evaluations: dict[Path, Path] = {}
    signals: dict[Path, Path] = {}
    for given in paths:
        top = Path(expanded(given))
        if not top.exists():
            raise UserError(
                f"runs has {given!r}, which does not exist; give folders of training runs or evaluations, or a folder "
                "that holds some"
            )
        if not top.is_dir():
            raise UserError(f"runs has {given!r}, which is a file; give its folder")
        for folder, below, files in os.walk(top, onerror=None):
            place = Path(folder)
            open_folders = {name for name in below if name not in _NOT_SEARCHED and not name.startswith(".")}
            below[:] = sorted(open_folders) if len(place.relative_to(top).parts) < DEEPEST else []
            if "signal.json" in files:
                signals.setdefault((place / "signal.json").resolve(), place / "signal.json")
            if "evaluation.json" in files:
                evaluations.setdefault(place.resolve(), place)
            elif "metrics.jsonl" in files or ("config.json" in files and _is_run(place)):
                runs.setdefault(place.resolve(), place)
            elif "results.json" in files and "settings" in (read_object(place / "results.json", []) or {}):
                notes.append(f"{place / 'results.json'} is of an older version; evaluate again to have it reported.")
    return list(runs.values()), list(evaluations.values()), list(signals.values())


def _is_run(folder: Path) -> bool:
    """Whether config.json configures a training run and not a model: before its first update a run has nothing else."""
    config = read_object(folder / "config.json", [])
    return config is not None and "group_size" in config


def _names(paths: list[Path]) -> list[str]:
    """The shortest ends of the paths that distinguish them."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, 1 + max(map(len, parts), default=1)):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _read_run(path: Path, name: str, notes: list[str]) -> Run:
    config = read_object(path / "config.json", notes)
    if config is None:
        notes.append(f"{path} has no readable config.json: what was trained, and how, is not known.")
    metrics = read_rows(path / "metrics.jsonl", notes)
    if not metrics:
        notes.append(f"{path} has no finished update: it has just begun, or was stopped before the first.")
    return Run(name, path, config or {}, metrics, read_rows(path / "samples.jsonl", notes, _SAMPLES_READ))


def _read_evaluation(path: Path, sources: Sources) -> None:
    notes = sources.notes
    evaluation = read_object(path / "evaluation.json", notes)
    if evaluation is None:
        return
    note_schema(path / "evaluation.json", evaluation, notes)
    sources.evaluations.append(path)
    for entry in rows_of(evaluation.get("tasks")):
        sources.tasks.setdefault(text(entry.get("name")), entry)
    for entry in rows_of(evaluation.get("models")):
        folder = text(entry.get("name"))
        if not _is_name(folder):
            notes.append(f"{path}: skipped a model without a usable name.")
            continue
        trained = entry.get("trained") if isinstance(entry.get("trained"), dict) else None
        model = _unique(
            Model(folder, text(entry.get("path")), trained, _run_of(trained, entry, sources)), path, sources
        )
        sources.models[model.name] = model
        _read_cells(path, folder, model.name, sources)
    if not any(path in c.file.parents for c in sources.cells.values()):
        notes.append(f"{path} has no finished cell yet.")


def _unique(model: Model, path: Path, sources: Sources) -> Model:
    """The model, renamed if another evaluation has a different model of the same name."""
    other = sources.models.get(model.name)
    if other is None or (other.path, other.trained) == (model.path, model.trained):
        return model
    return dataclasses.replace(model, name=f"{model.name} ({path.resolve().parent.name}/{path.name})")


def _run_of(trained: dict[str, Any] | None, entry: dict[str, Any], sources: Sources) -> Run | None:
    """The training run of an evaluated model, if it is among the runs that were read."""
    for place in (table(trained).get("run"), entry.get("path")):
        for run in sources.runs:
            if isinstance(place, str) and "\0" not in place and Path(place).resolve() == run.path.resolve():
                return run
    return None


def _read_cells(path: Path, folder: str, name: str, sources: Sources) -> None:
    notes = sources.notes
    for place in sorted(_below(path / "cells" / folder, 2)):
        summary = read_object(place / "summary.json", notes)
        if summary is None:
            continue  # unfinished: the summary is written last
        note_schema(place / "summary.json", summary, notes)
        profile = read_object(place / "profile.json", notes)
        key = (name, place.parent.name, place.name)
        sources.cells[key] = Cell(*key, place / "summary.json", summary, profile)
        sources.tasks.setdefault(place.parent.name, {"name": place.parent.name})
    for file in sorted((path / "traces" / folder).glob("*/*.jsonl")):
        for row in read_rows(file, notes, _TRACES_READ):
            sources.traces.append(row | {"model": name, "task": file.parent.name, "cell": file.stem})
    for file in sorted((path / "choices" / folder).glob("*.json")):
        choice = read_object(file, notes)
        if choice is not None:
            note_schema(file, choice, notes)
            sources.choices.append(choice | {"model": name, "name": text(choice.get("name"), file.stem)})
    kept = read_object(path / "preservation" / f"{folder}.json", notes)
    if kept is not None:
        note_schema(path / "preservation" / f"{folder}.json", kept, notes)
        sources.preservation.append(kept | {"model": name})


def _below(folder: Path, depth: int) -> list[Path]:
    return [place for place in folder.glob("/".join(["*"] * depth)) if place.is_dir()]


def _is_name(name: str) -> bool:
    """Whether a name stays inside its folder."""
    return bool(name) and name not in (".", "..") and not set(name) & set("/\\\0")
