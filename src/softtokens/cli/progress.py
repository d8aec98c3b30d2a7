"""Progress bars of the commands."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from softtokens.config.thought import ThoughtConfig

if TYPE_CHECKING:  # these import torch, which a progress bar does not need
    from softtokens.evaluate import run as evaluate_run
    from softtokens.signal import measure
    from softtokens.train import loop as train_loop

QuickstartListener = Callable[[str, str, int, dict[str, float]], None]  # called with model, phase, done and metrics
console = Console()


def _progress() -> Progress:
    columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn()]
    return Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console, transient=True)


@contextlib.contextmanager
def training(steps: int, title: str) -> Iterator[train_loop.Listener]:
    """A bar over optimizer steps; yields the listener that `train` wants."""
    with _progress() as progress:
        task = progress.add_task(title, total=steps, note="")
        note = ""

        def listen(done: int, metrics: dict[str, float]) -> None:
            nonlocal note
            if "reward" in metrics:  # missing if sampling failed
                note = f"reward {metrics['reward']:.1f}  {metrics['tokens_per_second']:,.0f} tokens/s"
            if "validation/accuracy" in metrics:
                solved = f"validation {in_percent(metrics)}"
                progress.console.print(f"{title}: step {done}, {note.partition('  ')[0]}, {solved}")
            progress.update(task, completed=done, note=note)

        yield listen


def in_percent(metrics: dict[str, float]) -> str:
    """The validation accuracy and its standard error."""
    value, error = (100 * metrics[f"validation/accuracy{part}"] for part in ("", "_error"))
    return f"{value:.1f} %" if math.isnan(error) else f"{value:.1f} ± {error:.1f} %"


@contextlib.contextmanager
def evaluation() -> Iterator[evaluate_run.Listener]:
    """A bar over the samples of all cells, with speed and time left; yields the listener that `evaluate` wants."""
    with _progress() as progress:
        task = progress.add_task("evaluating", total=None, note="")
        last: str | None = None
        tokens, seconds = 0, 0.0

        def listen(event: evaluate_run.Event) -> None:
            nonlocal last, tokens, seconds
            if event.cell != last:
                last, tokens, seconds = event.cell, 0, 0.0
            tokens, seconds = tokens + event.tokens, seconds + event.seconds
            note = f"{tokens / seconds:,.0f} tokens/s" if seconds else ""
            title = escape(f"{event.model} · {event.task} · {event.cell}")
            progress.update(task, description=title, completed=event.done, total=event.total, note=note)

        yield listen


@contextlib.contextmanager
def signal(settings: int, batches: int) -> Iterator[measure.Listener]:
    """A bar over the batches of all settings; yields the listener that `signal` wants."""
    with _progress() as progress:
        task = progress.add_task("measuring", total=settings * batches, note="")

        def listen(thought: ThoughtConfig, done: int) -> None:
            progress.update(task, description=f"measuring {thought.mode}, tau {thought.temperature:g}", advance=1)
            del done

        yield listen


@contextlib.contextmanager
def quickstart(totals: dict[tuple[str, str], int]) -> Iterator[QuickstartListener]:
    """A bar per (model, phase); yields the listener `(model, phase, done, metrics)`."""
    with _progress() as progress:
        tasks = {
            (name, phase): progress.add_task(f"{name}: {phase}", total=total, note="", start=False)
            for (name, phase), total in totals.items()
        }

        def listen(name: str, phase: str, done: int, metrics: dict[str, float]) -> None:
            task = tasks[name, phase]
            progress.start_task(task)
            note = f"reward {metrics['reward']:.1f}" if "reward" in metrics else ""
            progress.update(task, completed=done, note=note)
            if "validation/accuracy" in metrics:
                solved = in_percent(metrics)
                progress.console.print(f"{name}: step {done}, {note}, validation {solved} (greedy, own mode)")

        yield listen
