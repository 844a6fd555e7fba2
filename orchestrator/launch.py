"""How an attempt runs: claimed, announced, started on its workers, watched to its end."""

from __future__ import annotations

from dataclasses import dataclass

from jobspecs.errors import StorageError
from jobspecs.job import JobSpec
from orchestrator.bookkeeping import Bookkeeping
from orchestrator.crew import Crew
from orchestrator.evaluations import Evaluations
from orchestrator.failure import Failure, Kind, storage_failure
from orchestrator.interrupt import Interrupt
from orchestrator.journal import Journal
from orchestrator.lease import Lease
from orchestrator.monitor import Monitor
from orchestrator.prepare import Prepared
from orchestrator.resume import ResumePoint
from orchestrator.stop_request import Why, requested
from orchestrator.watch import Ended, Watch
from orchestrator.workforce import Workforce
from workers.train.fence import FencedError, claim_attempt
from workers.train.task import TrainTask


@dataclass(frozen=True)
class Attempt:
    """An attempt, as it begins."""

    number: int
    """From 1, through all goes of the job."""
    resume_from: ResumePoint
    world_size: int
    micro_batch: int | None
    """Rows that a rank shall encode at a time; None: as the spec says."""

    def spec(self, spec: JobSpec) -> JobSpec:
        """The job's spec, as this attempt runs it."""
        if self.micro_batch is None:
            return spec
        training = spec.training.model_copy(update={"micro_batch": self.micro_batch})
        return spec.model_copy(update={"training": training})


class Launcher:
    """Runs attempts, one at a time."""

    def __init__(
        self,
        job: Prepared,
        journal: Journal,
        interrupt: Interrupt,
        lease: Lease,
        workforce: Workforce,
        crew: Crew,
        evaluations: Evaluations,
    ) -> None:
        self._job = job
        self._journal = journal
        self._interrupt = interrupt
        self._lease = lease
        self._workforce = workforce
        self._crew = crew
        self._evaluations = evaluations

    def run(self, attempt: Attempt) -> Ended:
        """Runs one to its end. Raises TakenOverError."""
        try:
            self._lease.check()
            self._claim(attempt)
            return self._watched(attempt)
        except FencedError as error:
            return Ended(failure=Failure(Kind.FENCED, str(error)))
        except StorageError as error:
            return Ended(failure=storage_failure(error))

    def _claim(self, attempt: Attempt) -> None:
        """Raises FencedError, StorageError."""
        job = self._job
        claim_attempt(job.storage, job.run, attempt.number, self._lease.token)
        if requested(job.storage, job.run) not in (None, Why.INTERRUPTED, Why.NOW):
            job.storage.delete(job.run.stop)  # what it says was done; any other one ends the attempt at its first step
        size, step = attempt.world_size, attempt.resume_from.step
        self._journal.event(
            "attempt_started",
            f"attempt {attempt.number}: {size} worker{'s' if size > 1 else ''} from step {step}",
            attempt=attempt.number,
            step=step,
            world_size=size,
        )

    def _watched(self, attempt: Attempt) -> Ended:
        """Raises TakenOverError, StorageError."""
        job, spec, size = self._job, attempt.spec(self._job.spec), attempt.world_size
        task = TrainTask(spec, job.fixed, job.run, attempt.number, attempt.resume_from.uri, self._lease.number)
        monitor = Monitor(self._crew.desk(size), attempt.number)
        books = Bookkeeping(
            job,
            self._journal,
            self._interrupt,
            self._workforce,
            self._evaluations,
            monitor.nodes,
            attempt=attempt.number,
            start=attempt.resume_from.step,
            world_size=size,
        )
        return Watch(job.spec.name, self._lease, monitor, books).run(lambda: self._crew.run(task))
