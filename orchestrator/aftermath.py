"""What follows on the end of an attempt: it is told, what can be mended is mended, and `retry.py` is asked.

    aftermath.of_attempt(attempt, ended)        -> Again, once its delay is over
    aftermath.of_search(error)                  the same where no attempt ran: its checkpoint could not be looked for,
                                                or its negatives not be mined

Both raise JobFailedError where there is no further attempt.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace

from jobspecs.errors import DataError, JobFailedError, StorageError
from orchestrator import post_mortem, retry
from orchestrator.crew import Crew
from orchestrator.failure import Failure, Kind, storage_failure
from orchestrator.halt import Halt
from orchestrator.journal import Journal
from orchestrator.launch import Attempt
from orchestrator.prepare import Prepared
from orchestrator.ray_tasks import TasksLostError
from orchestrator.resume import Resume
from orchestrator.stop_request import Why
from orchestrator.watch import Ended

KEEP_SECONDS = 5.0
"""Through a longer pause workers that could start anew are not kept: others may have their room, and another start of
Ray Train takes about as long."""


class Aftermath:
    """Knows the failures of this go of the job."""

    def __init__(
        self, job: Prepared, journal: Journal, halt: Halt, resume: Resume, crew: Crew, sizes: Sequence[int]
    ) -> None:
        """crew: of the attempts. sizes: numbers of workers that the job may run on, ascending."""
        self._job = job
        self._crew = crew
        self._journal = journal
        self._halt = halt
        self._resume = resume
        self._sizes = sizes
        self._history: list[Failure] = []

    def of_attempt(self, attempt: Attempt, ended: Ended) -> retry.Again:
        """What follows on an attempt. Raises JobFailedError; TakenOverError."""
        if ended.asked is Why.INTERRUPTED:
            self._halt.accept()
        if ended.failure is not None:
            return self._failed(
                attempt, post_mortem.complete(ended.failure, attempt, ended.asked, self._journal.ledger)
            )
        if ended.step < self._job.fixed.total_steps:
            return self._ended_early(attempt, ended)
        return self._unharmed()

    def of_search(self, error: StorageError | TasksLostError) -> retry.Again:
        """What follows where the storage, or the cluster that mines, kept an attempt from being prepared. Raises
        JobFailedError; TakenOverError."""
        # It makes no commit: the newest that is known of is the one that the failures before had.
        committed = max([self._resume.committed, *(failure.committed for failure in self._history[-1:])])
        found = storage_failure(error) if isinstance(error, StorageError) else post_mortem.of_tasks(error)
        failure = replace(found, step=committed, committed=committed)
        self._journal.event(
            "resume_failed",
            f"the next attempt can't be prepared ({failure.kind}): {failure.cause}",
            kind=failure.kind,
            cause=failure.cause,
        )
        return self._decide(None, failure)

    def _unharmed(self) -> retry.Again:
        """Behind a commit of its last step an attempt may have any size."""
        return retry.Again(micro_batch=retry.micro_batch(self._history))

    def _ended_early(self, attempt: Attempt, ended: Ended) -> retry.Again:
        """After a commit before the last step."""
        if ended.asked not in (Why.PREEMPTED, Why.GROW, Why.EARLY_STOP):
            # Interrupted; or the request can't be read just now, or was withdrawn: the next look tells.
            return self._unharmed()
        self._journal.event(
            "attempt_ended",
            f"attempt {attempt.number} ended at step {ended.step}, which is committed",
            attempt=attempt.number,
            step=ended.step,
            reason=ended.asked,
        )
        if ended.asked is not Why.PREEMPTED:
            return self._unharmed()
        cause = "a node was taken away; it was saved before"
        failure = Failure(
            Kind.PREEMPTED,
            cause,
            step=ended.step,
            committed=ended.step,
            start=attempt.resume_from.step,
            world_size=attempt.world_size,
        )
        return self._decide(attempt.number, failure)

    def _failed(self, attempt: Attempt, failure: Failure) -> retry.Again:
        failure = self._mended(attempt, failure)
        preempted = failure.kind is Kind.PREEMPTED
        self._journal.event(
            "attempt_ended" if preempted else "attempt_failed",
            f"attempt {attempt.number} {'was ended' if preempted else 'failed'} ({failure.kind}): {failure.cause}",
            attempt=attempt.number,
            step=failure.step,
            kind=failure.kind,
            rank=failure.rank,
            cause=failure.cause,
            details=failure.details,
            **({"reason": Why.PREEMPTED} if preempted else {}),
        )
        return self._decide(attempt.number, failure)

    def _mended(self, attempt: Attempt, failure: Failure) -> Failure:
        """Does what has to be done before another attempt, and completes what is known. Raises TakenOverError."""
        try:
            if failure.kind is Kind.FENCED:
                # Only if that driver has the run: one that woke up late can also take a number, before it notices.
                self._halt.check_lease()
            elif failure.kind is Kind.CHECKPOINT:
                return self._after_load(attempt, failure)
            elif failure.kind is Kind.OUT_OF_MEMORY:
                encoded = post_mortem.encoded(attempt, self._job, self._journal.ledger)
                return replace(failure, encoded=encoded)
        except (StorageError, DataError) as error:
            kind = Kind.DATA if isinstance(error, DataError) else Kind.STORAGE
            return replace(failure, kind=kind, cause=f"{failure.cause}; then {error}")
        return failure

    def _after_load(self, attempt: Attempt, failure: Failure) -> Failure:
        """A checkpoint that is whole when the driver reads it is not the cause: the way to it is."""
        uri = attempt.resume_from.uri
        assert uri is not None, "there is one to blame"
        if self._resume.withdraw_if_damaged(uri):
            return failure
        cause = f"{failure.cause}; the driver finds it whole. All nodes must see the same storage.root"
        return replace(failure, kind=Kind.STORAGE, cause=cause)

    def _decide(self, number: int | None, failure: Failure) -> retry.Again:
        """Waits until the next attempt shall start, if the job is not interrupted. Raises JobFailedError: there would
        be none in any case; TakenOverError. number: the attempt that failed; None where none ran."""
        job = self._job
        decision = retry.decide(failure, self._history, job.spec.retry, self._sizes, draw=random.random())
        if failure.kind not in retry.FREE:
            self._history.append(failure)
        if isinstance(decision, retry.GiveUp):
            raise JobFailedError(f"{job.spec.name}: {failure.cause}\n{decision.reason}\n{_kept(failure)}")
        if self._halt.asked():
            return decision
        changes = ""
        if failure.encoded is not None:
            changes = f", with {decision.micro_batch} rows at a time"
        if decision.most_workers is not None:
            changes += f", on at most {decision.most_workers} workers"
        self._journal.event(
            "retry",
            f"next attempt in {decision.delay_seconds:.1f} s{changes}",
            **({} if number is None else {"attempt": number}),
            kind=failure.kind,
            delay_seconds=decision.delay_seconds,
            micro_batch=decision.micro_batch,
        )
        until = time.monotonic() + decision.delay_seconds
        if decision.delay_seconds > KEEP_SECONDS:
            self._crew.dismiss()
        self._halt.pause(until - time.monotonic())
        return decision


def _kept(failure: Failure) -> str:
    kept = f"Step {failure.committed} is committed" if failure.committed else "Nothing is committed yet"
    return f"{kept}; mend the cause, and the same command goes on from there."
