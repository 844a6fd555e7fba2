"""The root cause among the errors of a worker group, by errors made by hand as Ray raises them."""

from __future__ import annotations

import pytest
import torch
from ray.core.generated.common_pb2 import ActorDiedErrorContext, NodeDeathInfo
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    OutOfMemoryError,
    RaySystemError,
    RayTaskError,
)
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)

from jobspecs.errors import AccessDeniedError, DataError, StorageError, UsageError
from orchestrator.failure import Failure, Kind
from orchestrator.root_cause import classify
from workers.data.loader import LoaderDiedError
from workers.train.checkpoint import CheckpointError, OtherModelError, UnknownFormatError
from workers.train.fence import FencedError
from workers.train.health import DivergedError
from workers.train.saver import OTHERS

NODE = "ab" * 28
"""ID of the node of the workers."""


def died(exit_detail: str, reason: int = NodeDeathInfo.UNSPECIFIED) -> ActorDiedError:
    """What Ray says of an actor whose process is gone."""
    return ActorDiedError(
        ActorDiedErrorContext(
            class_name="RayTrainWorker",
            actor_id=b"a" * 16,
            error_message=exit_detail,
            node_death_info=NodeDeathInfo(reason=reason),
        )
    )


def unhealthy(failure: Exception) -> WorkerHealthCheckFailedError:
    """What Ray Train makes of it."""
    return WorkerHealthCheckFailedError(f"A worker health check failed.\nWorker info: node_id='{NODE}',", failure)


PROCESS_DIED = "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"
NODE_GONE = f"The actor died because its node has died. Node Id: {NODE}"
CLOSED = RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:4242")
LATE = RuntimeError("[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 600000ms for recv operation")


ALONE: dict[str, tuple[Exception, Kind]] = {
    "the spec": (UsageError("training.micro_batch: …"), Kind.SPEC),
    "a checkpoint of another version": (UnknownFormatError("checkpoint format 7 …"), Kind.SPEC),
    "a checkpoint of another model": (OtherModelError("file:///c is of another model: …"), Kind.SPEC),
    "the data": (DataError("12 of 100 samples …"), Kind.DATA),
    "the storage": (StorageError("file:///a: no space left"), Kind.STORAGE),
    "no access": (AccessDeniedError("s3://b"), Kind.STORAGE),
    "a damaged checkpoint": (CheckpointError("s3://b/step-1: model.safetensors is missing"), Kind.CHECKPOINT),
    "diverged": (DivergedError("the loss of step 3 is nan"), Kind.DIVERGED),
    "fenced": (FencedError("attempt 3 was replaced by attempt 4"), Kind.FENCED),
    "the device's memory": (torch.OutOfMemoryError("CUDA out of memory"), Kind.OUT_OF_MEMORY),
    "the device's memory, of a library": (RuntimeError("CUDA error: out of memory"), Kind.OUT_OF_MEMORY),
    "main memory, Python's": (MemoryError(), Kind.HOST_OUT_OF_MEMORY),
    "main memory, PyTorch's": (
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        Kind.HOST_OUT_OF_MEMORY,
    ),
    "main memory, Ray's watch": (unhealthy(OutOfMemoryError("Task was killed due to the node running low on memory")),
        Kind.HOST_OUT_OF_MEMORY),
    "a loader process": (LoaderDiedError("a loader process died (killed by signal 9)"), Kind.WORKER_LOST),
    "a worker process": (unhealthy(died(PROCESS_DIED)), Kind.WORKER_LOST),
    "the way to a worker": (unhealthy(ActorUnavailableError("The actor is unavailable", b"a" * 16)), Kind.WORKER_LOST),
    "a node": (unhealthy(died(NODE_GONE)), Kind.NODE_LOST),
    "a node, of an object": (unhealthy(NodeDiedError("the node died")), Kind.NODE_LOST),
    "a node with notice": (unhealthy(died(NODE_GONE, NodeDeathInfo.AUTOSCALER_DRAIN_PREEMPTED)), Kind.PREEMPTED),
    "no answer": (WorkerHealthCheckTimeoutError("A worker health check has been hanging for 601 s"), Kind.HANG),
    "a bug": (ValueError("too many values"), Kind.BUG),
    "an answer that can't be read": (unhealthy(RaySystemError("System error: can't unpickle")), Kind.BUG),
    "only a broken collective": (CLOSED, Kind.WORKER_LOST),
    "only a late collective": (LATE, Kind.HANG),
}  # fmt: skip


def of_group(failures: dict[int, Exception]) -> WorkerGroupError:
    return WorkerGroupError("the story", failures)


@pytest.mark.parametrize("case", ALONE)
def test_the_kind_of_an_error(case: str) -> None:
    error, kind = ALONE[case]
    failure = classify(of_group({1: error}))
    assert (failure.kind, failure.rank) == (kind, 1)
    assert failure.cause.startswith("rank 1: ")
    assert "the story" in failure.details


@pytest.mark.parametrize("case", ALONE)
def test_the_cause_is_found_among_what_follows_on_it(case: str) -> None:
    """Whichever rank it is on: the collectives of the others break, or time out."""
    error, kind = ALONE[case]
    if error in (CLOSED, LATE):
        return
    for rank in range(3):
        failures: dict[int, Exception] = {0: CLOSED, 1: LATE, 2: CLOSED}
        failure = classify(of_group({**failures, rank: error}))
        assert (failure.kind, failure.rank) == (kind, rank)


@pytest.mark.parametrize("case", ["a worker process", "no answer", "the way to a worker"])
def test_a_process_that_is_gone_with_its_node(case: str) -> None:
    error = ALONE[case][0]
    if case == "no answer":
        error = WorkerHealthCheckTimeoutError(f"A worker health check has been hanging\nWorker info: node_id='{NODE}'")
    assert classify(of_group({0: CLOSED, 1: error}), dead_nodes={NODE}).kind is Kind.NODE_LOST
    assert classify(of_group({0: CLOSED, 1: error}), dead_nodes={"cd" * 28}).kind is ALONE[case][1]


def test_a_worker_that_is_out_of_reach_is_told_in_plain_words() -> None:
    failure = classify(of_group({0: CLOSED, 1: ALONE["the way to a worker"][0]}))
    assert failure.cause.startswith("rank 1: its process does not answer any more:")


def test_a_broken_collective_while_a_node_went() -> None:
    """The ranks on the node are not heard of yet."""
    assert classify(of_group({0: CLOSED}), dead_nodes={NODE}).kind is Kind.NODE_LOST


def test_of_several_exceptions_the_one_that_explains_the_others() -> None:
    lost = classify(of_group({0: ValueError("bad state"), 1: unhealthy(died(PROCESS_DIED))}))
    assert (lost.kind, lost.rank) == (Kind.WORKER_LOST, 1)
    data = classify(of_group({0: ValueError("no batch"), 2: DataError("a.tar is damaged"), 3: DataError("b.tar")}))
    assert (data.kind, data.cause) == (Kind.DATA, "rank 2: DataError: a.tar is damaged")


def test_a_save_that_is_overdue_is_the_fault_of_who_does_not_write() -> None:
    def overdue(rank: int, waits_for: str) -> StorageError:
        return StorageError(f"no checkpoint could be committed: rank {rank} still waits for {waits_for}. Look after it")

    others = overdue(0, OTHERS), overdue(1, "its metrics to be written"), overdue(2, OTHERS)
    failure = classify(of_group(dict(enumerate(others))))
    assert (failure.kind, failure.rank) == (Kind.STORAGE, 1)
    assert classify(of_group({0: others[0]})).kind is Kind.STORAGE


def in_task(cause: Exception) -> Exception:
    """An error that a task or an actor raised, as the caller gets it."""
    return RayTaskError("start", "Traceback …", cause).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ControllerError(WorkerGroupStartupTimeoutError(4)), Kind.NODE_LOST),
        (ControllerError(WorkerGroupStartupFailedError("could not start")), Kind.WORKER_LOST),
        (ControllerError(WorkerGroupStartupFailedError(NODE_GONE)), Kind.NODE_LOST),
        (ControllerError(in_task(UsageError("nothing to do"))), Kind.SPEC),
        (ControllerError(in_task(CLOSED)), Kind.WORKER_LOST),
        (ControllerError(ValueError("what?")), Kind.BUG),
        (died(PROCESS_DIED), Kind.WORKER_LOST),  # of the controller itself
        (StorageError("file:///runs"), Kind.STORAGE),  # of the driver
    ],
)
def test_errors_of_no_rank(error: Exception, kind: Kind) -> None:
    failure = classify(error)
    assert (failure.kind, failure.rank) == (kind, None)
    assert failure.cause.startswith(type(error).__name__) or isinstance(error, ControllerError)


def test_the_fingerprint_leaves_out_what_differs_between_attempts() -> None:
    def of(message: str) -> Failure:
        return classify(of_group({0: ValueError(message)}))

    assert of("row 12 at 0x7f12ab is odd").fingerprint == of("row 7 at 0x11 is odd").fingerprint
    assert of("row 12 is odd").fingerprint != of("row 12 is even").fingerprint
    assert classify(of_group({0: TypeError("row 12 is odd")})).fingerprint != of("row 12 is odd").fingerprint


def test_the_cause_is_one_line() -> None:
    error = ValueError("first\nsecond\n  the last\n")
    assert classify(of_group({2: error})).cause == "rank 2: ValueError: the last"
