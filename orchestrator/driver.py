"""The job on the cluster: attempts until the last step is committed, evaluations, end state.

The same code drives a job on one machine and on a cluster. It keeps nothing in memory that the run
directory does not hold: killed at any point and started again, it goes on from the newest good commit.
"""

from __future__ import annotations

import time

from jobspecs.errors import StorageError, UsageError
from jobspecs.load import dumps
from orchestrator import evaluations, tokenizers
from orchestrator.attempts import Attempts
from orchestrator.interrupt import Interrupt
from orchestrator.journal import Journal
from orchestrator.lease import HEARTBEAT_SECONDS, Lease, TakenOverError
from orchestrator.ledger import Ledger, State
from orchestrator.prepare import Prepared
from orchestrator.ray_cluster import check_resources, start_ray
from orchestrator.stop_request import StopRequest
from orchestrator.view import View
from workers.data.index_file import to_parquet
from workers.run import committed_steps
from workers.storage import Storage


class Driver:
    """Drives one job to its end."""

    def __init__(self, prepared: Prepared, view: View, interrupt: Interrupt) -> None:
        self._job = prepared
        self._interrupt = interrupt
        self._ledger = Ledger(prepared.storage, prepared.run)
        self._journal = Journal(self._ledger, view)
        self._lease = Lease(_quick(prepared), prepared.run)
        self._stop = StopRequest(prepared.storage, prepared.run, self._journal, interrupt)

    def run(self) -> State:
        """Runs the job, or goes on with it. Returns SUCCEEDED or INTERRUPTED, written down or not.

        Raises UsageError: it is being run already, the cluster has too little, or the run directory can't
        be written (nothing was started then); JobFailedError, TakenOverError.
        """
        job = self._job
        if self._is_finished():
            self._journal.line(f"{job.spec.name} is finished: {job.fixed.total_steps} steps, all evaluations done")
            return State.SUCCEEDED
        self._journal.line("starting Ray")
        start_ray(job.spec.cluster)
        check_resources(job.spec.cluster)
        try:
            self._lease.take(self._journal.line)
        except StorageError as error:
            raise UsageError(f"the run directory can't be used: {error}") from error
        self._ledger.write_as(self._lease.number)
        try:
            self._open()
            if Attempts(job, self._journal, self._interrupt, self._lease).run() and self._evaluate():
                self._journal.end("run_succeeded", "succeeded")
                return State.SUCCEEDED
            self._journal.end("run_interrupted", "interrupted; the same command goes on from here")
            return State.INTERRUPTED
        except KeyboardInterrupt:
            self._journal.end("run_interrupted", "stopped at once; the same command goes on from the last commit")
            raise
        except TakenOverError:
            raise
        except Exception as error:
            self._journal.end("run_failed", f"failed: {error}", shown=False)  # whoever called shows it
            raise
        finally:
            self._lease.give_back()

    def _is_finished(self) -> bool:
        job = self._job
        total = job.fixed.total_steps
        return (
            self._ledger.plan() == job.fixed
            and total in committed_steps(job.storage, job.run)
            and not evaluations.pending(job.spec, job.storage, job.run, total)
            and self._ledger.state(self._ledger.events()) is State.SUCCEEDED
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
            filtered=job.plan.filtered,
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

    def _evaluate(self) -> bool:
        """Does the evaluations that have no result yet. Returns False when it was interrupted before.

        Raises TakenOverError.
        """
        job, step = self._job, self._job.fixed.total_steps
        self._journal.event("training_finished", f"all {step} steps are done")
        for name in evaluations.pending(job.spec, job.storage, job.run, step):
            if self._stop.is_made():
                return False
            self._journal.event("evaluation_started", f"evaluation {name} of step {step}", evaluation=name, step=step)
            began = time.monotonic()
            evaluated = evaluations.evaluate_with_ray(
                job.spec, job.run, step, name, lambda: self._lease.lost or self._stop.is_made()
            )
            if self._lease.lost:
                raise TakenOverError(job.spec.name)
            if evaluated is None:
                return False
            if evaluated.fault is None:
                seconds = time.monotonic() - began
                self._journal.event(
                    "evaluation_finished", f"evaluation {name}: done in {seconds:.1f} s", evaluation=name
                )
            else:
                message = f"evaluation {name} failed: {evaluated.fault}"
                self._journal.event("evaluation_failed", message, evaluation=name, reason=evaluated.fault)
        return True


def _quick(job: Prepared) -> Storage:
    """The storage, for signs of life: one that waits longer for an answer is taken for dead before it has it."""
    s3 = job.spec.storage.s3
    return Storage(s3.model_copy(update={"timeout_seconds": min(s3.timeout_seconds, HEARTBEAT_SECONDS)}))
