"""What a failed attempt failed of: its kind and its root cause, as the policy and the event log need them.

`root_cause.py` finds it out; `retry.py` decides what follows on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Kinds of failures. Those that may be tried again have a budget of the same name in `retry:`."""

    SPEC = "spec"
    """The spec, or what it names, can't be as it says. Every attempt would end the same way."""
    DATA = "data"
    """Samples or shards that can't be used."""
    STORAGE = "storage"
    """The storage could not be read or written."""
    CHECKPOINT = "checkpoint"
    """The checkpoint to go on from is damaged."""
    OUT_OF_MEMORY = "out_of_memory"
    """A device's memory was full."""
    HOST_OUT_OF_MEMORY = "host_out_of_memory"
    """A node's main memory was full."""
    WORKER_LOST = "worker_lost"
    """A worker process died, or the connection to it."""
    NODE_LOST = "node_lost"
    """A node died, or there were too few of them to start on."""
    PREEMPTED = "preempted"
    """A node was taken away."""
    HANG = "hang"
    """A rank stood still."""
    DIVERGED = "diverged"
    """The training came to nothing: the same batches would lead there again."""
    FENCED = "fenced"
    """Another driver has begun a later attempt of this run."""
    BUG = "bug"
    """Any other exception."""


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed."""

    kind: Kind
    cause: str
    """The root cause in one line, with its rank: `rank 1: DataError: …`."""
    details: str = ""
    """The whole story: tracebacks of all ranks."""
    rank: int | None = None
    """Where it began; None where no single rank is to blame."""
    fingerprint: str = ""
    """Equal for the same exception: its type and message, without numbers."""
    step: int = 0
    """Optimizer steps that were done, committed or not."""
    committed: int = 0
    """The newest commit of the run when it failed; 0 without one."""


class AttemptFailedError(Exception):
    """An attempt's worker group failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure
