"""A failing process of a run notifies the others, which may be waiting for it in a collective operation.

Without this they notice nothing for up to half an hour, the timeout of NCCL. Each process has a thread that watches for
the notification and ends the process if it has not ended by itself soon after.
"""

from __future__ import annotations

import datetime
import logging
import os
import threading

import torch.distributed as dist

from softtokens.types import OtherProcessFailed, first_line

log = logging.getLogger(__name__)
_LOOK_EVERY_S = 2.0
_GRACE_S = 10.0  # lets a process that notices the failure itself exit cleanly
_JOIN_S = 20.0  # longer than the store takes to answer
_EXIT = 1


class Peers:
    """Failure notifications among the processes of a run, over the store by which they met."""

    def __init__(self, rank: int):
        # a separate connection: the process group's own may be blocked in an operation
        self._store = dist.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=datetime.timedelta(seconds=10),
        )
        self._rank = rank
        # torchrun's store survives a restart
        self._key = f"softtokens/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def tell(self, error: BaseException) -> None:
        """Publish why this process fails. Only the first failing process is recorded."""
        self.close()
        if isinstance(error, OtherProcessFailed) or self._store.check([self._key]):
            return
        self._store.set(self._key, f"process {self._rank} failed: {first_line(error)}")

    def close(self) -> None:
        """Stop the thread and wait for it: a thread inside the store when the interpreter ends would abort the
        process."""
        self._done.set()
        self._thread.join(timeout=_JOIN_S)

    def _look(self) -> None:
        try:
            while not self._done.wait(_LOOK_EVERY_S):
                if self._store.check([self._key]):
                    news = self._store.get(self._key).decode(errors="replace")
                    break
            else:
                return
        except (RuntimeError, OSError):  # the store is gone, so the process that hosted it is gone too
            return
        if not self._done.wait(_GRACE_S):
            log.error("%s. This process exits too. Restart all processes with the same command and --resume.", news)
            os._exit(_EXIT)
