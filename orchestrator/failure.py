"""What a failed attempt failed of: its kind and its root cause, as the policy and the event log need them.

`root_cause.py` finds it out, `post_mortem.py` adds what only the driver knows, `retry.py` decides what follows on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from jobspecs.errors import StorageError


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
class Encoded:
    """How an attempt encoded its batches."""

    rows: int
    """Rows that a rank encoded at a time."""
    divisible: bool
    """False where a tower normalises over the batch: then it can't be encoded in parts."""


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed, and how far it had come."""

    kind: Kind
    cause: str
    """The root cause in one line, with its rank: `rank 1: DataError: …`."""
    details: str = ""
    """The story: tracebacks of ranks, that of `rank` first."""
    rank: int | None = None
    """Where it began; None where no single rank is to blame."""
    fingerprint: str = ""
    """Equal for the same exception: its type and message, without numbers."""
    step: int = 0
    """Optimizer steps that were done, committed or not."""
    committed: int = 0
    """The newest commit of the run when it failed; 0 without one."""
    start: int = 0
    """The step that it went on from."""
    world_size: int = 0
    """Its workers; 0 where none ran: what failed came between two attempts."""
    encoded: Encoded | None = None
    """Known of an attempt that ran out of a device's memory."""

    @property
    def came_up(self) -> bool:
        """Whether its worker group did, or may have: False where nodes were missing before its first step. What failed
        between two attempts tells nothing of a group."""
        return not self.world_size or self.kind is not Kind.NODE_LOST or max(self.step, self.committed) > self.start


class AttemptFailedError(Exception):
    """An attempt's worker group failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


def storage_failure(error: StorageError) -> Failure:
    """What the driver's own request to the storage failed of."""
    cause = f"{type(error).__name__}: {error}"
    return Failure(Kind.STORAGE, cause, fingerprint=cause)
