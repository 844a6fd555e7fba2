"""Attempts until the last step is committed.

Each begins at the newest good checkpoint (`resume.py`), with the negatives that the job mines for it, if it does
(`mining_stage.py`), on as many workers as there is room for (`workforce.py`), and runs to its end (`launch.py`): with
the last step committed; with a commit before it, because it was asked to end or the job mines anew there; or with a
failure. What follows on that is `aftermath.py`'s, and ends here where the job shall (`halt.py`).
"""

from __future__ import annotations

from jobspecs.errors import StorageError, TandemError
from orchestrator.aftermath import Aftermath
from orchestrator.crew import Crew
from orchestrator.elastic import sizes
from orchestrator.evaluations import Evaluations
from orchestrator.halt import Halt
from orchestrator.interrupt import Interrupt
from orchestrator.journal import Journal
from orchestrator.launch import Attempt, Launcher
from orchestrator.lease import Lease
from orchestrator.mining_stage import MiningStage
from orchestrator.prepare import Prepared
from orchestrator.ray_tasks import TasksLostError
from orchestrator.resume import Resume, ResumePoint
from orchestrator.retry import Again
from orchestrator.workforce import Workforce
from workers.train.fence import attempts


class Attempts:
    """Trains a job to its last step."""

    def __init__(
        self, job: Prepared, journal: Journal, interrupt: Interrupt, lease: Lease, evaluations: Evaluations
    ) -> None:
        """evaluations: they give way while an attempt starts, and may end training early."""
        self._job = job
        self._evaluations = evaluations
        self._journal = journal
        self._halt = Halt(job, journal, interrupt, lease)
        self._resume = Resume(job, journal)
        self._crew = Crew(job.run.name, job.spec.cluster, job.spec.retry.hang_after_seconds)
        self._mining = MiningStage(job, journal, self._halt, self._crew.dismiss)
        possible = sizes(job.fixed.layout.lanes, job.spec.cluster)
        self._workforce = Workforce(possible, job.spec.cluster, journal, self._crew, evaluations)
        self._launcher = Launcher(job, journal, interrupt, lease, self._workforce, self._crew, evaluations)
        self._aftermath = Aftermath(job, journal, self._halt, self._resume, self._crew, possible)

    def run(self) -> bool:
        """Runs attempts, to the last step or to where it gets no better. Returns False when the job was interrupted
        before.

        Raises JobFailedError; TakenOverError: another driver has begun a later attempt.
        """
        with self._crew:
            return self._run()

    def _run(self) -> bool:
        again = Again()
        while True:
            try:
                point, number = self._resume.find(), self._last_number() + 1
                if point.step >= self._job.fixed.total_steps or (point.step and self._evaluations.stalled()):
                    return True
                if self._halt.asked():
                    return False
                if not self._mine(point):
                    continue
            except (StorageError, TasksLostError) as error:
                again = self._aftermath.of_search(error)
                if self._halt.asked():
                    return False
                continue
            size = self._workforce.wait(self._halt.asked, again.most_workers)
            if size is None:
                return False
            attempt = Attempt(number, point, size, again.micro_batch)
            ended = self._launcher.run(attempt)
            self._resume.committed = ended.step
            again = self._aftermath.of_attempt(attempt, ended)

    def _mine(self, point: ResumePoint) -> bool:
        """Sees to the negatives of the attempt that begins at `point`. Returns False where its checkpoint, which mines
        them, is damaged: it is withdrawn, and the one before takes its place. Raises as `MiningStage.before`."""
        try:
            self._mining.before(point)
        except TandemError as error:
            from workers.train.checkpoint import CheckpointError  # torch, which the driver starts without

            # Without a checkpoint to go on from, it is the one that `mining.model` names.
            if not isinstance(error, CheckpointError) or point.uri is None:
                raise
            if self._resume.withdraw_if_damaged(point.uri):
                self._resume.committed = 0  # it is not looked for any more
                return False
            raise StorageError(
                f"{error}; the driver finds it whole. All nodes must see the same storage.root"
            ) from error
        return True

    def _last_number(self) -> int:
        """The newest attempt's that is known of, whoever began it; 0 before the first. Raises StorageError."""
        job = self._job
        started = (event.get("attempt", 0) for event in self._journal.ledger.events())
        return max([*attempts(job.storage, job.run), *started], default=0)
