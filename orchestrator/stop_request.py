"""The request to end an attempt: the object `stop` in the run directory, whose word says why.

Anybody may write it, with any word: that interrupts the job, as Ctrl-C does. The driver itself writes it when an
attempt shall end for another reason, and never over the request of somebody else.
"""

from __future__ import annotations

from enum import StrEnum

from jobspecs.errors import NotFoundError
from workers.run import RunDirectory
from workers.storage import Storage


class Why(StrEnum):
    """Why an attempt is asked to end: the content of `stop`."""

    INTERRUPTED = "interrupted"
    """By the user, or by whoever else wrote the request, in whatever words."""
    PREEMPTED = "preempted"
    """A node with workers is about to be taken away."""
    GROW = "grow"
    """There is room for more workers."""


def requested(storage: Storage, run: RunDirectory) -> Why | None:
    """What `stop` says; None without one. Raises StorageError."""
    try:
        word = storage.read(run.stop).decode(errors="replace")
    except NotFoundError:
        return None
    return Why(word) if word in list(Why) else Why.INTERRUPTED
