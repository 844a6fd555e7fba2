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
from orchestrator.watch import Ended, Watch, Why
from orchestrator.workforce import Workforce
from workers.data.order import rows_per_rank
from workers.run import committed_steps
from workers.run_inputs import load_tokenizers


class CommitLostError(StorageError):
    """A commit that an attempt made is not in the run directory."""


class Attempts:
    """Trains a job to its last step."""

    def __init__(self, job: Prepared, journal: Journal, interrupt: Interrupt, lease: Lease) -> None:
        self._job = job
        self._journal = journal
        self._interrupt = interrupt
        self._lease = lease
        self._workforce = Workforce(sizes(job.fixed.layout.lanes, job.spec.cluster), job.spec.cluster, journal)
        self._history: list[Failure] = []
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
        committed, goes_on = 0, True
        while True:
            uri, step, size = None, committed, None
            try:
                uri, step = self._resume_point(committed)
                if step >= job.fixed.total_steps:
                    return True
                if not goes_on or self._interrupt.requested():
                    return False
                size = self._workforce.wait(lambda: self._interrupt.requested() or self._lease.lost, self._most)
                if self._lease.lost:
                    raise TakenOverError(job.spec.name)
                if size is None:
                    return False
                number += 1
                ended = self._attempt(number, uri, step, size)
            except FencedError as error:
                raise TakenOverError(job.spec.name) from error
            except StorageError as error:
                cause = f"{type(error).__name__}: {error}"
                ended = Ended(failure=Failure(Kind.STORAGE, cause, fingerprint=cause))
            committed, goes_on = ended.step, True
            if ended.failure is not None:
                failure = self._enriched(ended, number, uri, step)
                self._limit(size, failure, step)
                self._failed(number, size, failure, uri)
                continue
            self._most = None
            if ended.step < job.fixed.total_steps:
                goes_on = self._goes_on(number, ended)

    # --- the beginning of an attempt ---

    def _resume_point(self, committed: int) -> tuple[str | None, int]:
        """The newest good checkpoint and its step. The newer ones that are not are withdrawn: they must not count as
        commits any more, nor be kept in place of good ones. Raises CommitLostError: it is older than `committed`."""
        from orchestrator.checkpoints import newest_good

        job = self._job
        good = newest_good(job.storage, job.run, job.fixed)
        for rejected in good.rejected:
            self._withdraw(rejected.uri, rejected.reason)
        if good.step < committed:
            raise CommitLostError(
                f"step {committed} was committed and can't be read back, {good.step} can. All nodes must see the same "
                f"{job.run.uri}: set storage.root to storage that they share."
            )
        return good.uri, good.step

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
        job.storage.delete(job.run.stop)
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
        monitor = Monitor(
            job.storage,
            job.run,
            attempt=number,
            world_size=size,
            hang_after_seconds=spec.retry.hang_after_seconds,
        )
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

    def _goes_on(self, number: int, ended: Ended) -> bool:
        """After a commit before the last step: whether another attempt follows."""
        if ended.asked not in (Why.PREEMPTED, Why.GROW):
            return False
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
        return True

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

    def _limit(self, size: int | None, failure: Failure, start: int) -> None:
        """Limits the next attempt's workers where those of this one, from step `start`, did not come up: the room that
        was counted may not be there. size: None where it did not come to a worker group."""
        if size is None:
            return
        if failure.committed > start:
            self._most = None
        elif failure.kind is Kind.NODE_LOST and failure.step == start:
            self._most = smaller_size(self._workforce.sizes, size)

    def _failed(self, number: int, size: int | None, failure: Failure, resume_from: str | None) -> None:
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
        if self._interrupt.requested():
            raise JobFailedError(
                f"{self._job.spec.name}: it failed before it could save: {failure.cause}\n{self._kept(failure)}"
            )
        encoded = None
        try:
            if failure.kind is Kind.CHECKPOINT and resume_from is not None:
                with contextlib.suppress(NotFoundError):  # without a manifest it is no commit any more
                    self._withdraw(resume_from, failure.cause)
            elif failure.kind is Kind.OUT_OF_MEMORY and size is not None:
                encoded = self._encoded(number, size)
        except StorageError as error:
            failure = replace(failure, kind=Kind.STORAGE, cause=f"{failure.cause}; then {error}")
        self._decide(number, failure, encoded)

    def _decide(self, number: int, failure: Failure, encoded: retry.Encoded | None = None) -> None:
        """Waits until the next attempt shall start. Raises JobFailedError: there is none."""
        job = self._job
        decision = retry.decide(failure, self._history, job.spec.retry, encoded=encoded, draw=random.random())
        if failure.kind is not Kind.CHECKPOINT:
            self._history.append(failure)
        if isinstance(decision, retry.GiveUp):
            raise JobFailedError(f"{job.spec.name}: {failure.cause}\n{decision.reason}\n{self._kept(failure)}")
        changes = ""
        if decision.smaller_micro_batch is not None:
            self._micro_batch = decision.smaller_micro_batch
            changes = f", with {self._micro_batch} rows at a time"
        if self._most is not None and self._most < self._workforce.sizes[-1]:
            changes += f", on at most {self._most} workers"
        self._journal.event(
            "retry",
            f"next attempt in {decision.delay_seconds:.1f} s{changes}",
            attempt=number,
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
        while (left := until - time.monotonic()) > 0 and not self._interrupt.requested():
            if self._lease.lost:
                raise TakenOverError(self._job.spec.name)
            self._interrupt.wait(min(left, 1.0))

    def _kept(self, failure: Failure) -> str:
        kept = f"Step {failure.committed} is committed" if failure.committed else "Nothing is committed yet"
        return f"{kept}; mend the cause, and the same command goes on from there."
