"""The job on the cluster: attempts until the last step is committed, evaluations, end state.

The same code drives a job on one machine and on a cluster. It keeps nothing in memory that the run
directory does not hold: killed at any point and started again, it goes on from the newest good commit.
"""

from __future__ import annotations

from jobspecs.errors import StorageError, UsageError
from jobspecs.load import dumps
from orchestrator import tokenizers
from orchestrator.attempts import Attempts
from orchestrator.evaluations import FAILED_LOOKS, Evaluations, is_finished
from orchestrator.halt import Halt
from orchestrator.interrupt import Interrupt
from orchestrator.journal import Journal
from orchestrator.lease import HEARTBEAT_SECONDS, Lease, TakenOverError
from orchestrator.ledger import Ledger, State
from orchestrator.listening import listening
from orchestrator.prepare import Prepared
from orchestrator.ray_cluster import check_evaluations, check_resources, own_dashboard, start_ray
from orchestrator.report.leave import leave_report
from orchestrator.run_argument import run_argument
from orchestrator.trackers import check_trackers
from orchestrator.views.view import View
from orchestrator.within import within
from orchestrator.workforce import withdraw
from workers.data.index_file import to_parquet
from workers.run import committed_steps
from workers.storage import Storage

POLL_SECONDS = 0.5
AT_ONCE_SECONDS = 10.0
"""How long a job that is stopped at once waits for a storage that does not answer."""


class Driver:
    """Drives one job to its end."""

    def __init__(self, prepared: Prepared, view: View, interrupt: Interrupt) -> None:
        self._job = prepared
        self._interrupt = interrupt
        self._ledger = Ledger(prepared.storage, prepared.run)
        self._journal = Journal(self._ledger, view)
        self._lease = Lease(_quick(prepared), prepared.run, prepared.spec.storage.s3)
        self._halt = Halt(prepared, self._journal, interrupt, self._lease)

    def run(self) -> State:
        """Runs the job, or goes on with it. Returns SUCCEEDED or INTERRUPTED, written down or not.

        Raises UsageError: it is being run already, the cluster has too little, a tracker's package is missing, or the
        run directory can't be written (nothing was started then); JobFailedError, TakenOverError.
        """
        job = self._job
        if self._is_finished():
            steps = committed_steps(job.storage, job.run)[-1]
            self._journal.line(f"{job.spec.name} is finished: {steps} steps, all evaluations done")
            return State.SUCCEEDED
        self._journal.line("starting Ray")
        start_ray(job.spec.cluster, job.spec.evaluations)
        check_resources(job.spec.cluster)
        check_evaluations(job.spec)
        check_trackers(job.spec.tracking)
        try:
            self._lease.take(self._journal.line)
        except StorageError as error:
            raise UsageError(f"the run directory can't be used: {error}") from error
        self._ledger.write_as(self._lease.number)
        with own_dashboard(), listening(job, self._journal):
            return self._drive()

    def _leave_report(self) -> None:
        if reason := leave_report(self._ledger):
            run = run_argument(self._ledger.run.uri, self._job.spec.storage.s3)
            self._journal.line(f"no report: {reason}. `tandem report {run}` writes it")

    def _drive(self) -> State:
        job = self._job
        try:
            self._open()
            with Evaluations(job, self._journal) as evaluations:
                succeeded = self._train(evaluations) and self._finish(evaluations)
            if succeeded:
                self._journal.end("run_succeeded", "succeeded")
                self._leave_report()
                return State.SUCCEEDED
            self._journal.end("run_interrupted", "interrupted; the same command goes on from here")
            self._leave_report()
            return State.INTERRUPTED
        except KeyboardInterrupt:
            message = "stopped at once; the same command goes on from the last commit"
            within(AT_ONCE_SECONDS, lambda: self._journal.end("run_interrupted", message))
            raise
        except TakenOverError:
            raise
        except Exception as error:
            self._journal.end("run_failed", f"failed: {error}")
            self._leave_report()
            raise
        finally:
            self._lease.give_back()

    def _is_finished(self) -> bool:
        return (
            self._ledger.plan() == self._job.fixed
            and self._ledger.state(self._ledger.events()) is State.SUCCEEDED
            and is_finished(self._job, self._ledger)
        )

    def _open(self) -> None:
        """Writes down what the run is; the plan comes last, as it makes the directory a run."""
        job = self._job
        there = self._ledger.plan()
        if there is not None and there != job.fixed:
            # Another driver began it while this one looked at the data.
            raise UsageError(
                f"{job.spec.name} became another run meanwhile ({job.run.uri}), by another spec or other data. Nothing "
                "was changed. Start this job again to see the difference, or give it another name."
            )
        is_new = there is None
        job.storage.write(job.run.spec, dumps(job.spec).encode())
        for index in job.indexes:
            job.storage.write(job.run.index(index.source), to_parquet(index))
        if is_new:
            self._write_tokenizers()
            job.storage.write(job.run.plan, job.fixed.to_json())
        job.storage.delete(job.run.stop)
        what = "started" if is_new else "started again"
        self._journal.event(
            "run_started",
            f"{job.spec.name} {what}: {job.plan.total_steps} steps, {job.run.uri}",
            total_steps=job.fixed.total_steps,
            filtered=job.plan.filtered,
            submission_id=self._lease.submission_id,
        )
        for uri in job.rewritten:
            self._journal.event(
                "shard_rewritten", f"{uri} was written again since the run began; size and count are equal"
            )

    def _write_tokenizers(self) -> None:
        job = self._job
        made = job.tokenizers
        if len(made) < len(job.spec.data.texts):
            self._journal.line("training a tokenizer on the texts")
            made = made | tokenizers.train_with_ray(job.spec.data, job.indexes, job.storage, job.spec.seed)
        for name, tokenizer in made.items():
            job.storage.write(job.run.tokenizer(name), tokenizer.to_bytes())

    def _train(self, evaluations: Evaluations) -> bool:
        """Trains to the last step. Returns False when it was interrupted before. Raises JobFailedError, TakenOverError.

        An autoscaler keeps nodes for the workers no longer than that: evaluations need none of them.
        """
        job = self._job
        try:
            return Attempts(job, self._journal, self._interrupt, self._lease, evaluations).run()
        finally:
            if not self._lease.lost:  # what stands now is the other driver's
                withdraw(job.spec.cluster)

    def _finish(self, evaluations: Evaluations) -> bool:
        """Training is over: waits for the evaluations that are left. Returns False when it was interrupted before.

        Raises TakenOverError, StorageError.
        """
        job = self._job
        last = self._last_step()
        if last is None:
            return False
        if last < job.fixed.total_steps:
            message = f"training ends early, with step {last}: {evaluations.stalled()}"
        else:
            message = f"all {last} steps are done"
        self._journal.event("training_finished", message, step=last)
        evaluations.finish(last)
        while not evaluations.is_done():
            if self._halt.asked():
                return False
            self._interrupt.wait(POLL_SECONDS)
        return True

    def _last_step(self) -> int | None:
        """The newest that is committed; None when the job was interrupted before the storage has answered. Raises
        StorageError, after as many looks as evaluations have then; TakenOverError."""
        for look in range(1, FAILED_LOOKS + 1):
            try:
                return committed_steps(self._job.storage, self._job.run)[-1]
            except StorageError as error:
                if look == FAILED_LOOKS:
                    raise
                if look == 1:
                    self._journal.line(f"the end of training waits, as the run directory did not answer: {error}")
            if self._halt.asked():
                break
            self._interrupt.wait(POLL_SECONDS)
        return None


def _quick(job: Prepared) -> Storage:
    """The storage, for signs of life: one that waits longer for an answer is taken for dead before it has it."""
    s3 = job.spec.storage.s3
    return Storage(s3.model_copy(update={"timeout_seconds": min(s3.timeout_seconds, HEARTBEAT_SECONDS)}))
