"""Worker processes that answer JSON lines, with a hard time limit per question.

Plain subprocesses rather than `multiprocessing`, which needs a main guard in scripts and does not start from notebooks.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

START_TIMEOUT_S = 120.0  # imports from a cold network disk can be slow
_ATTEMPTS = 2


class Failure(enum.Enum):
    """Why a question has no answer."""

    TIMEOUT = "timeout"
    CRASH = "crash"  # the worker died, and so did a fresh one on the same question


class WorkerPool:
    """Answers many questions over `workers` processes, which start when first needed and live until `close`.

    `command` starts a process that writes `{"ready": true}` (or `{"error": "why not"}`) and then one line of JSON for
    each line it reads. A worker that dies or runs out of time is replaced.
    """

    def __init__(self, command: Sequence[str], *, workers: int, timeout_s: float):
        self._command = list(command)
        self._timeout_s = timeout_s
        self._slots: list[Worker | None] = [None] * workers
        self._lock = threading.Lock()
        weakref.finalize(self, _kill_all, self._slots)  # also runs at the interpreter's exit

    def ask_all(self, questions: Sequence[dict[str, Any]]) -> list[dict[str, Any] | Failure]:
        """The answers in the order of the questions. Raises RuntimeError if a worker cannot start."""
        if not questions:
            return []
        answers: list[dict[str, Any] | Failure] = [Failure.CRASH] * len(questions)
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index in range(len(questions)):
            todo.put(index)

        def serve(slot: int) -> None:
            with contextlib.suppress(queue.Empty):
                while True:
                    index = todo.get_nowait()
                    answers[index] = self._ask(slot, questions[index])

        threads = min(len(self._slots), len(questions))
        with self._lock, ThreadPoolExecutor(threads, thread_name_prefix="grader") as executor:
            try:
                for finished in [executor.submit(serve, slot) for slot in range(threads)]:
                    finished.result()
            except BaseException:  # a thread failed or the user pressed Ctrl-C: the other threads take no new work
                with contextlib.suppress(queue.Empty):
                    while True:
                        todo.get_nowait()
                raise
        return answers

    def close(self) -> None:
        with self._lock:
            _kill_all(self._slots)

    def _ask(self, slot: int, question: dict[str, Any]) -> dict[str, Any] | Failure:
        answer: dict[str, Any] | Failure = Failure.CRASH
        for _ in range(_ATTEMPTS):
            worker = self._slots[slot]
            if worker is None or not worker.is_alive():
                if worker is not None:
                    worker.kill()
                worker = self._slots[slot] = Worker(self._command)
            answer = worker.ask(question, self._timeout_s)
            if answer is not Failure.CRASH:
                break
            worker.kill()
        return answer


class Worker:
    """One process. It belongs to the process that started it: a forked child neither uses nor kills it."""

    def __init__(self, command: Sequence[str]):
        self._owner = os.getpid()
        self._expired = False
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - standard error; kill() closes it
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=_environment(),
                start_new_session=True,  # Ctrl-C goes to the caller only, which then stops its workers
            )
        except (OSError, ValueError) as error:
            self._log.close()
            raise RuntimeError(f"a grading process cannot start: {command} gives {error}") from error
        greeting = self._exchange(None, START_TIMEOUT_S)
        if isinstance(greeting, Failure) or not greeting.get("ready"):
            raise RuntimeError(f"a grading process cannot start: {self._why(greeting)}")

    def ask(self, question: dict[str, Any], timeout_s: float) -> dict[str, Any] | Failure:
        # Escapes turn any text, including NUL bytes and lone surrogates, into one line of ASCII.
        return self._exchange(json.dumps(question).encode("ascii") + b"\n", timeout_s)

    def is_alive(self) -> bool:
        return self._owner == os.getpid() and not self._expired and self._process.poll() is None

    def kill(self) -> None:
        if self._owner != os.getpid():
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            with contextlib.suppress(OSError):  # closing flushes what a dead process never read
                if stream is not None:
                    stream.close()

    def _exchange(self, line: bytes | None, timeout_s: float) -> dict[str, Any] | Failure:
        """Send a line, if any, and wait for the reply. Killing the process is what ends a wait that takes too long."""
        watchdog = threading.Timer(timeout_s, self._expire)
        watchdog.daemon = True
        watchdog.start()
        to_process, from_process = self._process.stdin, self._process.stdout
        assert to_process is not None and from_process is not None, "both are pipes"
        try:
            if line is not None:
                to_process.write(line)
                to_process.flush()
            reply = from_process.readline()
        except OSError:  # the process is gone
            reply = b""
        finally:
            watchdog.cancel()
            watchdog.join()  # it cannot fire after this
        if reply.endswith(b"\n"):
            with contextlib.suppress(ValueError):
                return json.loads(reply)
        return Failure.TIMEOUT if self._expired else Failure.CRASH

    def _expire(self) -> None:
        self._expired = True
        self._process.kill()

    def _why(self, greeting: dict[str, Any] | Failure) -> str:
        if isinstance(greeting, dict):
            reason = str(greeting.get("error", greeting))
        elif greeting is Failure.TIMEOUT:
            reason = f"it was not ready after {START_TIMEOUT_S:.0f} s."
        else:
            self._process.wait()
            self._log.seek(0)
            output = self._log.read()[-2000:].decode("utf-8", "replace").strip()
            reason = f"it ended with code {self._process.returncode} and said: {output or 'nothing'}"
        self.kill()
        return reason


def _environment() -> dict[str, str]:
    """This process's environment and import path, with a fixed hash seed: verdicts must not depend on set order."""
    path = [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    return {**kept, "PYTHONPATH": os.pathsep.join(path), "PYTHONHASHSEED": "0"}


def _kill_all(slots: list[Worker | None]) -> None:
    for index, worker in enumerate(slots):
        slots[index] = None
        if worker is not None:
            worker.kill()
