"""One grading process: for each line of JSON with a pair of answers, replies whether they are equal.

Started by the math grader as `python -m softtokens.rewards.worker SECONDS`. It ends when its standard input closes, and
is killed by its caller when an answer takes too long.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO

from softtokens.rewards.equality import is_equal, value_of

MEMORY_BYTES = 2 * 1024**3  # limit on address space; Math-Verify itself needs a quarter of it
GRACE_S = 5.0


def main() -> None:
    timeout_s = float(sys.argv[1])
    requests, replies = _take_standard_streams()
    _limit_memory()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    _send(replies, _greeting())
    for line in requests:
        with _last_resort(timeout_s + GRACE_S):
            reply = _answer(json.loads(line))
        _send(replies, reply)


def _greeting() -> dict[str, Any]:
    """The first line of a worker: ready, or the reason why it cannot start."""
    try:
        works = is_equal(r"\frac{1}{2}", "0.5") and not is_equal("x", "y")
    except ImportError as error:
        return {"error": f"Math-Verify cannot be imported ({error}). Install it: pip install math-verify"}
    except Exception as error:  # any error is reported to the caller
        return {"error": f"Math-Verify fails on the simplest answers ({type(error).__name__}: {error})."}
    return {"ready": True} if works else {"error": "Math-Verify is installed but finds that 1/2 is not 0.5."}


def _answer(request: dict[str, str]) -> dict[str, Any]:
    try:
        if "answer" in request:
            return {"value": value_of(request["answer"])}
        return {"right": bool(is_equal(request["given"], request["expected"]))}
    except MemoryError:
        os._exit(1)  # nothing works reliably from here; the caller starts another worker
    except Exception as error:
        # The name only: converting an expression to text can itself hang.
        return {"error": type(error).__name__}


def _take_standard_streams() -> tuple[BinaryIO, BinaryIO]:
    """Private copies of standard input and output; what a library prints goes to standard error."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return requests, replies


def _send(replies: BinaryIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message).encode("ascii") + b"\n")
    replies.flush()


def _limit_memory() -> None:
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    except (ImportError, OSError, ValueError):
        return  # not supported on every system; the time limit still applies


@contextlib.contextmanager
def _last_resort(seconds: float) -> Iterator[None]:
    """End this process if the caller died while an answer runs away: the alarm kills even inside C code."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
