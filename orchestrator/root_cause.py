"""The error of a worker group -> its root cause. Pure: what is known of the nodes comes in.

When a rank fails, the others fail of it: their next collective breaks. So among the errors of a group the cause is
sought in this order: what happened to nodes and processes, then exceptions of a rank's own, and last collectives that
broke or came too late, which are to blame only where nothing else is known.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import ray.exceptions
import torch

from jobspecs.errors import DataError, StorageError, UsageError
from orchestrator.failure import Failure, Kind
from workers.data.loader import LoaderDiedError
from workers.run import RunDirectoryError
from workers.train.checkpoint import CheckpointError, OtherModelError, UnknownFormatError
from workers.train.fence import FencedError
from workers.train.health import DivergedError
from workers.train.saver import OTHERS

_OF_TYPE: tuple[tuple[type[BaseException], Kind], ...] = (
    (UsageError, Kind.SPEC),
    (UnknownFormatError, Kind.SPEC),
    (OtherModelError, Kind.SPEC),
    (RunDirectoryError, Kind.SPEC),
    (DataError, Kind.DATA),
    (StorageError, Kind.STORAGE),
    (CheckpointError, Kind.CHECKPOINT),
    (DivergedError, Kind.DIVERGED),
    (FencedError, Kind.FENCED),
    (torch.OutOfMemoryError, Kind.OUT_OF_MEMORY),
    (MemoryError, Kind.HOST_OUT_OF_MEMORY),
    (LoaderDiedError, Kind.WORKER_LOST),
    (ray.exceptions.OutOfMemoryError, Kind.HOST_OUT_OF_MEMORY),
    (ray.exceptions.NodeDiedError, Kind.NODE_LOST),
    (ray.exceptions.ActorUnschedulableError, Kind.NODE_LOST),
    (ray.exceptions.ActorPlacementGroupRemoved, Kind.NODE_LOST),
    (ray.exceptions.RayActorError, Kind.WORKER_LOST),
    (ray.exceptions.WorkerCrashedError, Kind.WORKER_LOST),
    (ray.exceptions.LocalRayletDiedError, Kind.NODE_LOST),
)
_OF_NAME = {
    "WorkerHealthCheckTimeoutError": Kind.HANG,
    "WorkerGroupStartupTimeoutError": Kind.NODE_LOST,
    "WorkerGroupStartupFailedError": Kind.WORKER_LOST,
    "InsufficientClusterResourcesError": Kind.NODE_LOST,
}
"""Errors of Ray Train that are not in its public interface."""
_OF_WORDS = (
    ("can't allocate memory", Kind.HOST_OUT_OF_MEMORY),  # PyTorch's allocator on CPUs
    ("CUDA error: out of memory", Kind.OUT_OF_MEMORY),
    ("CUBLAS_STATUS_ALLOC_FAILED", Kind.OUT_OF_MEMORY),
)
"""What a plain RuntimeError says."""

_BROKEN = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "Connection was likely closed",
    "ncclRemoteError",
    "remote process exited",
    "communicator was aborted",
)
"""What the ranks say when another one has died under a collective."""
_LATE = ("Timed out waiting", "Wait timeout", "wait timeout", "Socket Timeout", "collective operation timeout")
"""What they say when another one did not come to it."""

_ORDER = (
    Kind.PREEMPTED,
    Kind.NODE_LOST,
    Kind.HOST_OUT_OF_MEMORY,
    Kind.WORKER_LOST,
    Kind.FENCED,
    Kind.SPEC,
    Kind.DIVERGED,
    Kind.CHECKPOINT,
    Kind.DATA,
    Kind.STORAGE,
    Kind.OUT_OF_MEMORY,
    Kind.BUG,
    Kind.HANG,
)
"""Of failures on several ranks, the kind that explains the others comes first."""


@dataclass(frozen=True)
class _Finding:
    """What one rank's error says."""

    rank: int | None
    kind: Kind
    error: BaseException
    collateral: bool = False
    """Whether it may be the consequence of another rank's failure."""

    @property
    def line(self) -> str:
        return _line(self.error) if self.rank is None else f"rank {self.rank}: {_line(self.error)}"


def classify(error: BaseException, dead_nodes: Collection[str] = ()) -> Failure:
    """What an attempt failed of.

    error: what Ray Train raised, or would have. dead_nodes: hex IDs of nodes that were there when the attempt began,
    and are not any more.
    """
    failures = getattr(error, "worker_failures", None) or {}
    if failures:
        findings = [_find(rank, failure, dead_nodes) for rank, failure in sorted(failures.items())]
    else:
        failure = getattr(error, "controller_failure", error)
        findings = [_find(None, getattr(failure, "cause", None) or failure, dead_nodes)]
    root = min(findings, key=lambda finding: (finding.collateral, _ORDER.index(finding.kind)))
    if root.collateral and root.kind is Kind.WORKER_LOST and dead_nodes:
        root = _Finding(root.rank, Kind.NODE_LOST, root.error)
    return Failure(root.kind, root.line, str(error), root.rank, _fingerprint(root.error))


def _find(rank: int | None, error: BaseException, dead_nodes: Collection[str]) -> _Finding:
    # Ray Train wraps what its look at a worker process came to; the message holds the node's ID.
    cause = getattr(error, "health_check_failure", error)
    if getattr(cause, "preempted", False):
        return _Finding(rank, Kind.PREEMPTED, cause)
    text = str(error)
    kind = _kind(cause)
    if kind is Kind.STORAGE and f"still waits for {OTHERS}" in text:
        return _Finding(rank, kind, cause, collateral=True)
    if kind in (Kind.WORKER_LOST, Kind.HANG) and ("its node has died" in text or any(n in text for n in dead_nodes)):
        return _Finding(rank, Kind.NODE_LOST, cause)
    if kind is Kind.BUG and isinstance(cause, RuntimeError | OSError):
        for words, collateral in ((_BROKEN, Kind.WORKER_LOST), (_LATE, Kind.HANG)):
            if any(word in text for word in words):
                return _Finding(rank, collateral, cause, collateral=True)
    return _Finding(rank, kind, cause)


def _kind(error: BaseException) -> Kind:
    for type_, kind in _OF_TYPE:
        if isinstance(error, type_):
            return kind
    for type_ in type(error).__mro__:
        if type_.__name__ in _OF_NAME:
            return _OF_NAME[type_.__name__]
    if isinstance(error, RuntimeError):
        for words, kind in _OF_WORDS:
            if words in str(error):
                return kind
    return Kind.BUG


def _line(error: BaseException) -> str:
    """An exception in a line: its type and last line, of one that Ray wraps its traceback's last line; or what it means
    in plain words."""
    if isinstance(error, ray.exceptions.ActorUnavailableError):  # IDs, and a status of gRPC
        return "its process does not answer any more: it ended, or its node or the way to it is gone"
    text = (str(error).strip().splitlines() or [""])[-1]
    # What Ray guesses at length of a process that died is in the details.
    return f"{type(error).__name__}: {text.partition(' Some common causes')[0].strip()}"


def _fingerprint(error: BaseException) -> str:
    """The type and the message with numbers and addresses left out: those differ between attempts."""
    return re.sub(r"0x[0-9a-fA-F]+|\d+", "#", f"{type(error).__qualname__}: {error}")
