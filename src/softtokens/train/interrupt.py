"""SIGTERM and Ctrl-C: the run saves and ends, ready to be resumed."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """The run was asked to stop, and has saved what it had done."""


class _Dropped(BaseException):  # no `except Exception` may catch it
    """Leaves a step that is worth nothing yet."""


class StopRequest:
    """asked: the name of the first signal that came, None before. A second one ends the process at once."""

    def __init__(self) -> None:
        self.asked: str | None = None
        self._droppable = False

    def attempt(self, work: Callable[[], T], *, droppable: bool) -> T | None:
        """Call `work`. Returns its result, or None if a signal came before it or, if it is droppable, while nothing had
        changed yet. With several processes work is not droppable: the others would wait at the next collective
        operation."""
        if droppable and self.asked:
            return None
        self._droppable = droppable
        try:
            return work()
        except _Dropped:
            return None
        finally:
            self._droppable = False

    def keep(self) -> None:
        """From here on work must be finished."""
        self._droppable = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.asked is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.asked = signal.Signals(number).name
        if self._droppable:
            self._droppable = False
            raise _Dropped

    @contextlib.contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Signals go to this request inside. Outside the main thread there are none to be had."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
