"""What only the driver knows of a failed attempt: what it went on from, how far it came, why it was asked to end, how
it encoded its batches."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from jobspecs.errors import StorageError
from orchestrator.failure import Encoded, Failure, Kind
from orchestrator.launch import Attempt
from orchestrator.ledger import Ledger
from orchestrator.prepare import Prepared
from orchestrator.ray_tasks import TasksLostError
from orchestrator.stop_request import Why
from workers.data.order import rows_per_rank
from workers.run import committed_steps
from workers.run_inputs import load_tokenizers


def complete(failure: Failure, attempt: Attempt, asked: Why | None, ledger: Ledger) -> Failure:
    """The failure with what is known here but how it encoded. asked: why the attempt was asked to end, if it was."""
    if asked is Why.PREEMPTED and failure.kind in (Kind.NODE_LOST, Kind.WORKER_LOST):
        failure = replace(failure, kind=Kind.PREEMPTED)  # the node was gone before the commit was made
    if failure.kind is Kind.CHECKPOINT and attempt.resume_from.uri is None:
        failure = replace(failure, kind=Kind.BUG)  # there is none to withdraw
    start = step = committed = attempt.resume_from.step
    with contextlib.suppress(StorageError):
        metrics = ledger.last_metrics()
        if metrics and metrics["attempt"] == attempt.number:
            step = metrics["step"]
        committed = max([0, *committed_steps(ledger.storage, ledger.run)])
    return replace(failure, step=step, committed=committed, start=start, world_size=attempt.world_size)


def of_tasks(error: TasksLostError) -> Failure:
    """What tasks between two attempts failed of."""
    from orchestrator.root_cause import classify  # torch, which the driver starts without

    assert error.__cause__ is not None, "Ray's error"
    failure = classify(error.__cause__)
    # Another error of Ray's own, of a lost object for one, is no bug of the task: its owner is gone.
    kind = Kind.WORKER_LOST if failure.kind is Kind.BUG else failure.kind
    return replace(failure, kind=kind, cause=str(error))


def encoded(attempt: Attempt, job: Prepared, ledger: Ledger) -> Encoded:
    """How an attempt encoded its batches. Raises DataError, StorageError."""
    from workers.models.build import tower_sizes  # torch, which the driver starts without

    metrics = ledger.last_metrics()
    if metrics and metrics["attempt"] == attempt.number:
        rows = metrics["micro_batch"]
    else:
        rows = rows_per_rank(attempt.world_size, job.fixed.layout)
        wanted = attempt.spec(job.spec).training.micro_batch
        rows = min(rows, wanted) if isinstance(wanted, int) else rows
    # Those that had still to be trained are in the run directory by now.
    made = job.tokenizers if job.spec.data.texts.keys() <= job.tokenizers.keys() else None
    towers = tower_sizes(job.spec.model, job.spec.data, made or load_tokenizers(job.storage, job.run, job.spec.data))
    return Encoded(rows, all(tower.divisible for tower in towers.values()))
