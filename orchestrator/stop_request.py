"""The request to end an attempt, or the job: the object `stop` in the run directory, whose word says why.

Anybody may write it, with any word: that interrupts the job, as Ctrl-C does, also between attempts and while
evaluations run; the word `now` ends it at once. The driver itself writes it when an attempt shall end for another
reason, and never over the request of somebody else.
"""

from __future__ import annotations

import contextlib
from enum import StrEnum

from jobspecs.errors import NotFoundError, StorageError
from orchestrator.interrupt import Interrupt
from orchestrator.journal import Journal
from workers.run import RunDirectory
from workers.storage import Storage
from workers.train.stop import AT_ONCE


class Why(StrEnum):
    """Why an attempt is asked to end: the content of `stop`."""

    INTERRUPTED = "interrupted"
    """By the user, or by whoever else wrote the request, in whatever words."""
    NOW = AT_ONCE.decode()
    """By the user, who does not want to wait for a commit."""
    PREEMPTED = "preempted"
    """A node with workers is about to be taken away."""
    GROW = "grow"
    """There is room for more workers."""
    EARLY_STOP = "early_stop"
    """An evaluation finds nothing better any more: it is the last attempt."""


def requested(storage: Storage, run: RunDirectory) -> Why | None:
    """What `stop` says; None without one. Raises StorageError."""
    try:
        word = storage.read(run.stop).decode(errors="replace")
    except NotFoundError:
        return None
    return Why(word) if word in list(Why) else Why.INTERRUPTED


class StopRequest:
    """Whether the job is interrupted, by the user or by whoever else wrote a request to stop."""

    def __init__(self, storage: Storage, run: RunDirectory, journal: Journal, interrupt: Interrupt) -> None:
        self._storage = storage
        self._run = run
        self._journal = journal
        self._interrupt = interrupt

    def is_made(self) -> bool:
        """Looks for a request. From the first one on the job is interrupted."""
        if not self._interrupt.requested():
            with contextlib.suppress(StorageError):  # no answer is not a request
                why = requested(self._storage, self._run)
                if why in (Why.INTERRUPTED, Why.NOW):
                    self.accept()
                if why is Why.NOW:
                    self._interrupt.at_once()
        return self._interrupt.requested()

    def accept(self) -> None:
        """The job was asked to end, if not by the user then by somebody else: from now on that makes no difference."""
        if not self._interrupt.requested():
            self._interrupt.request()
            message = f"somebody asked the job to stop, by {self._run.stop}; Ctrl-C stops it at once"
            self._journal.event("stop_requested", message, reason=Why.INTERRUPTED)
