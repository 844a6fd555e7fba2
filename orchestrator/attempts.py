"""Attempts until the last step is committed: where each begins, on how many workers, and what follows on its end.

An attempt ends in one of three ways: with the last step committed; with a commit before it, because it was asked to
end (`watch.py`); or with a failure, of which `retry.py` says what follows.
"""

from __future__ import annotations

import contextlib
import random
import time
from dataclasses import replace

from jobspecs.errors import JobFailedError, NotFoundError, StorageError
from orchestrator import retry
from orchestrator.elastic import sizes, smaller_size
from orchestrator.failure import Failure, Kind
from orchestrator.interrupt import Interrupt
from orchestrator.journal import Journal
from orchestrator.lease import Lease, TakenOverError
from orchestrator.monitor import Monitor
from orchestrator.prepare import Prepared
from orchestrator.stop_request import StopRequest, Why, requested
from orchestrator.watch import Ended, Watch
from orchestrator.workforce import Workforce
from workers.data.order import rows_per_rank
from workers.run import committed_steps
from workers.run_inputs import load_tokenizers


class CommitLostError(JobFailedError):
    """A commit that an attempt made is not in the run directory: nor would the next one's be."""


class Attempts:
    """Trains a job to its last step."""

    def __init__(self, job: Prepared, journal: Journal, interrupt: Interrupt, lease: Lease) -> None:
        self._job = job
        self._journal = journal
        self._interrupt = interrupt
        self._lease = lease
        self._stop = StopRequest(job.storage, job.run, journal, interrupt)
        self._workforce = Workforce(sizes(job.fixed.layout.lanes, job.spec.cluster), job.spec.cluster, journal)
        self._history: list[Failure] = []
        self._committed = 0
        """The step that the attempt before committed, and that the next one must find; 0 where there is none."""
        self._micro_batch: int | None = None
        """Rows that a rank encodes at a time, once the spec's were too many."""
        self._most: int | None = None
        """Workers that may be tried, once a worker group did not come up, until there is a new commit."""

    def run(self) -> bool:
        """Runs attempts. Returns False when the job was interrupted before the last step.

        Raises JobFailedError; TakenOverError: another driver has begun a later attempt.
        """
        from workers.train.fence import FencedError, attempts

        job = self._job
        number = max(
            [*attempts(job.storage, job.run), *(event.get("attempt", 0) for event in self._journal.ledger.events())],
            default=0,
        )
        while True:
            try:
                uri, step = self._resume_point()
            except StorageError as error:
                self._resume_failed(error)
                if self._stopped():
                    return False
                continue
            if step >= job.fixed.total_steps:
                return True
            if self._stopped():
                return False
            size = self._workforce.wait(lambda: self._stopped() or self._lease.lost, self._most)
            if self._lease.lost:
                raise TakenOverError(job.spec.name)
            if size is None:
                return False
            number += 1
            try:
                ended = self._attempt(number, uri, step, size)
            except FencedError as error:
                raise TakenOverError(job.spec.name) from error
            except StorageError as error:
                ended = Ended(failure=_of_storage(error))
            self._committed = ended.step
            if ended.asked is Why.INTERRUPTED:
                self._interrupted()
            if ended.failure is not None:
                failure = self._enriched(ended, number, uri, step)
                self._limit(size, failure, step)
                self._failed(number, size, failure, uri)
                continue
            self._most = None
            if ended.step < job.fixed.total_steps:
                self._ended_early(number, ended)

    # --- the beginning of an attempt ---

    def _resume_point(self) -> tuple[str | None, int]:
        """The newest good checkpoint and its step. The newer ones that are not are withdrawn: they must not count as
        commits any more, nor be kept in place of good ones. Raises CommitLostError: it is older than what was
        committed, and none was withdrawn."""
        from orchestrator.checkpoints import newest_good

        job = self._job
        good = newest_good(job.storage, job.run, job.fixed)
        if good.rejected:
            self._committed = good.step
        for rejected in good.rejected:
            self._withdraw(rejected.uri, rejected.reason)
        if good.step < self._committed:
            raise CommitLostError(
                f"{job.spec.name}: step {self._committed} was committed and can't be read back, {good.step} can. All "
                f"nodes must see the same {job.run.uri}: set storage.root to storage that they share."
            )
        return good.uri, good.step

    def _resume_failed(self, error: StorageError) -> None:
        """Waits for the next look at the checkpoints. Raises JobFailedError: the storage was away too often."""
        # A look makes no commit: the newest that is known of is the one that the failures before had.
        committed = max([self._committed, *(failure.committed for failure in self._history[-1:])])
        failure = replace(_of_storage(error), step=committed, committed=committed)
        self._journal.event(
            "resume_failed",
            f"the checkpoint to go on from can't be looked for ({failure.kind}): {failure.cause}",
            kind=failure.kind,
            cause=failure.cause,
        )
        self._decide(None, failure)

    def _withdraw(self, uri: str, reason: str) -> None:
        from workers.train.checkpoint import withdraw

        withdraw(self._job.storage, uri)
        self._journal.event("checkpoint_rejected", f"{uri} is not used: {reason}", checkpoint=uri, reason=reason)

    def _attempt(self, number: int, resume_from: str | None, step: int, size: int) -> Ended:
        """Runs one attempt to its end. Raises FencedError: another driver has begun it; StorageError."""
        from orchestrator.attempt import run_attempt
        from workers.train.fence import claim_attempt
        from workers.train.loop import TrainTask

        job = self._job
        claim_attempt(job.storage, job.run, number, self._lease.token)
        if requested(job.storage, job.run) is not Why.INTERRUPTED:
            job.storage.delete(job.run.stop)  # what it says was done; any other one ends the attempt at its first step
        self._journal.event(
            "attempt_started",
            f"attempt {number}: {size} worker{'s' if size > 1 else ''} from step {step}",
            attempt=number,
            step=step,
            world_size=size,
        )
        spec = job.spec
        if self._micro_batch is not None:
            training = spec.training.model_copy(update={"micro_batch": self._micro_batch})
            spec = spec.model_copy(update={"training": training})
        task = TrainTask(spec, job.fixed, job.run, number, resume_from)
        monitor = Monitor(world_size=size, hang_after_seconds=spec.retry.hang_after_seconds)
        watch = Watch(
            job,
            self._journal,
            self._interrupt,
            self._lease,
            self._workforce,
            monitor,
            attempt=number,
            start=step,
            world_size=size,
        )
        with contextlib.closing(monitor):
            return watch.run(lambda: run_attempt(task, spec.cluster, size, monitor.beats))

    # --- its end ---

    def _ended_early(self, number: int, ended: Ended) -> None:
        """After a commit before the last step. Raises JobFailedError: too many nodes were taken away."""
        if ended.asked not in (Why.PREEMPTED, Why.GROW):
            self._interrupted()  # whoever asked has withdrawn the request, or it can't be read
            return
        self._journal.event(
            "attempt_ended",
            f"attempt {number} ended at step {ended.step}, which is committed",
            attempt=number,
            step=ended.step,
            reason=ended.asked,
        )
        if ended.asked is Why.PREEMPTED:
            cause = "a node was taken away; it was saved before"
            self._decide(number, Failure(Kind.PREEMPTED, cause, step=ended.step, committed=ended.step))

    def _enriched(self, ended: Ended, number: int, resume_from: str | None, start: int) -> Failure:
        """The failure with what only the driver knows: the step that was reached, the newest commit, why it was asked
        to end, what it went on from."""
        failure = ended.failure
        assert failure is not None
        if ended.asked is Why.PREEMPTED and failure.kind in (Kind.NODE_LOST, Kind.WORKER_LOST):
            failure = replace(failure, kind=Kind.PREEMPTED)  # the node was gone before the commit was made
        if failure.kind is Kind.CHECKPOINT and resume_from is None:
            failure = replace(failure, kind=Kind.BUG)  # there is none to withdraw
        step = committed = start
        with contextlib.suppress(StorageError):
            metrics = self._journal.ledger.last_metrics()
            if metrics and metrics["attempt"] == number:
                step = metrics["step"]
            committed = max([0, *committed_steps(self._job.storage, self._job.run)])
        return replace(failure, step=step, committed=committed)

    def _limit(self, size: int, failure: Failure, start: int) -> None:
        """Limits the next attempt's workers where those of this one, from step `start`, did not come up: the room that
        was counted may not be there."""
        if failure.committed > start:
            self._most = None
        elif failure.kind is Kind.NODE_LOST and failure.step == start:
            self._most = smaller_size(self._workforce.sizes, size)

    def _failed(self, number: int, size: int, failure: Failure, resume_from: str | None) -> None:
        """Writes a failure down, and waits for as long as the next attempt shall. Raises JobFailedError."""
        if failure.kind is Kind.FENCED:
            raise TakenOverError(self._job.spec.name)
        preempted = failure.kind is Kind.PREEMPTED
        self._journal.event(
            "attempt_ended" if preempted else "attempt_failed",
            f"attempt {number} {'was ended' if preempted else 'failed'} ({failure.kind}): {failure.cause}",
            attempt=number,
            step=failure.step,
            kind=failure.kind,
            rank=failure.rank,
            cause=failure.cause,
            details=failure.details,
            **({"reason": Why.PREEMPTED} if preempted else {}),
        )
        encoded = None
        try:
            if failure.kind is Kind.CHECKPOINT and resume_from is not None:
                failure = self._damaged(resume_from, failure)
            elif failure.kind is Kind.OUT_OF_MEMORY:
                encoded = self._encoded(number, size)
        except StorageError as error:
            failure = replace(failure, kind=Kind.STORAGE, cause=f"{failure.cause}; then {error}")
        self._decide(number, failure, encoded)

    def _damaged(self, uri: str, failure: Failure) -> Failure:
        """Withdraws a checkpoint that a rank could not load. One that the driver finds whole is not the cause."""
        from workers.train.checkpoint import CheckpointError, verify

        try:
            verify(self._job.storage, uri, content=True)
        except CheckpointError as error:
            with contextlib.suppress(NotFoundError):  # without a manifest it is no commit any more
                self._withdraw(uri, str(error))
            return failure
        cause = f"{failure.cause}; the driver finds it whole. All nodes must see the same storage.root"
        return replace(failure, kind=Kind.STORAGE, cause=cause)

    def _decide(self, number: int | None, failure: Failure, encoded: retry.Encoded | None = None) -> None:
        """Waits until the next attempt shall start, if the job is not interrupted. Raises JobFailedError: there would
        be none in any case. number: the attempt that failed; None where none ran."""
        job = self._job
        decision = retry.decide(failure, self._history, job.spec.retry, encoded=encoded, draw=random.random())
        if failure.kind is not Kind.CHECKPOINT:
            self._history.append(failure)
        if isinstance(decision, retry.GiveUp):
            raise JobFailedError(f"{job.spec.name}: {failure.cause}\n{decision.reason}\n{self._kept(failure)}")
        if self._stopped():
            return
        changes = ""
        if decision.smaller_micro_batch is not None:
            self._micro_batch = decision.smaller_micro_batch
            changes = f", with {self._micro_batch} rows at a time"
        if self._most is not None and self._most < self._workforce.sizes[-1]:
            changes += f", on at most {self._most} workers"
        self._journal.event(
            "retry",
            f"next attempt in {decision.delay_seconds:.1f} s{changes}",
            **({} if number is None else {"attempt": number}),
            kind=failure.kind,
            delay_seconds=decision.delay_seconds,
            micro_batch=self._micro_batch,
        )
        self._pause(decision.delay_seconds)

    def _encoded(self, number: int, size: int) -> retry.Encoded:
        """How attempt `number` encoded its batches, on `size` workers, when it ran out of memory."""
        from workers.models.build import tower_sizes

        job = self._job
        metrics = self._journal.ledger.last_metrics()
        if metrics and metrics["attempt"] == number:
            rows = metrics["micro_batch"]
        else:
            rows = rows_per_rank(size, job.fixed.layout)
            wanted = self._micro_batch or job.spec.training.micro_batch
            rows = min(rows, wanted) if isinstance(wanted, int) else rows
        # Those that had still to be trained are in the run directory by now.
        made = job.tokenizers if job.spec.data.texts.keys() <= job.tokenizers.keys() else None
        tokenizers = made or load_tokenizers(job.storage, job.run, job.spec.data)
        towers = tower_sizes(job.spec.model, job.spec.data, tokenizers)
        return retry.Encoded(rows, all(tower.divisible for tower in towers.values()))

    def _pause(self, seconds: float) -> None:
        """Waits, but not through an interrupt, nor when another driver has the run. Raises JobFailedError."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._stopped():
            if self._lease.lost:
                raise TakenOverError(self._job.spec.name)
            self._interrupt.wait(min(left, 1.0))

    def _stopped(self) -> bool:
        """Whether the job is interrupted, by the user or by whoever else wrote a request to stop."""
        return self._stop.is_made()

    def _interrupted(self) -> None:
        """The job was asked to end."""
        self._stop.accept()

    def _kept(self, failure: Failure) -> str:
        kept = f"Step {failure.committed} is committed" if failure.committed else "Nothing is committed yet"
        return f"{kept}; mend the cause, and the same command goes on from there."


def _of_storage(error: StorageError) -> Failure:
    cause = f"{type(error).__name__}: {error}"
    return Failure(Kind.STORAGE, cause, fingerprint=cause)
