"""The job on the cluster: attempts until the last step is committed, evaluations, end state.

The same code drives a job on one machine and on a cluster. It keeps nothing in memory that the run
directory does not hold: killed at any point and started again, it goes on from the newest good commit.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field

import yaml

from jobspecs.errors import JobFailedError, StorageError
from orchestrator import evaluations, retry
from orchestrator.ledger import Heartbeat, Ledger, State, Status, committed_steps
from orchestrator.prepare import Prepared
from orchestrator.ray_cluster import start_ray
from orchestrator.view import View

POLL_SECONDS = 1.0


class Interrupt:
    """A request to stop that a signal handler may set: save, commit, end."""

    def __init__(self) -> None:
        self._requested = threading.Event()

    def request(self) -> None:
        """Asks the job to stop at its next step."""
        self._requested.set()

    def requested(self) -> bool:
        """Whether it was asked to."""
        return self._requested.is_set()

    def wait(self, seconds: float) -> None:
        """Sleeps, but not through a request."""
        self._requested.wait(seconds)


@dataclass
class _Watched:
    """An attempt in its thread: what came of it."""

    outcome_step: int | None = None
    failure: Exception | None = None
    seen_commits: set[int] = field(default_factory=set)


class Driver:
    """Drives one job to its end."""

    def __init__(self, prepared: Prepared, view: View, interrupt: Interrupt) -> None:
        self._job = prepared
        self._view = view
        self._interrupt = interrupt
        self._ledger = Ledger(prepared.storage, prepared.run)
        self._rejected: set[str] = set()

    def run(self) -> Status:
        """Runs the job, or goes on with it. Returns its status when it succeeded or was interrupted.

        Raises UsageError: it is being run already; JobFailedError; StorageError.
        """
        job, ledger = self._job, self._ledger
        if self._is_finished():
            self._view.line(
                f"{job.spec.name} is finished: {job.fixed.total_steps} steps, all evaluations done"
            )
            return ledger.status()
        heartbeat = Heartbeat(job.storage, job.run)
        heartbeat.start()
        try:
            self._open()
            start_ray(job.spec.cluster)
            if self._train() and self._evaluate():
                self._event("run_succeeded", "succeeded")
            else:
                self._event("run_interrupted", "interrupted; the same command goes on from here")
            return ledger.status()
        except Exception as error:
            with contextlib.suppress(StorageError):
                self._event("run_failed", f"failed: {error}")
            raise
        finally:
            heartbeat.stop()

    def _is_finished(self) -> bool:
        job = self._job
        total = job.fixed.total_steps
        return (
            self._ledger.plan() is not None
            and total in committed_steps(job.storage, job.run)
            and not evaluations.pending(job.spec, job.storage, job.run, total)
            and self._ledger.state(self._ledger.events()) is State.SUCCEEDED
        )

    def _open(self) -> None:
        """Writes down what the run is; the plan comes last, as it makes the directory a run."""
        job = self._job
        is_new = self._ledger.plan() is None
        document = yaml.safe_dump(job.spec.model_dump(mode="json", exclude_none=True), sort_keys=False)
        job.storage.write(job.run.spec, document.encode())
        if is_new:
            job.storage.write(job.run.index(job.index.source), job.index.to_json())
            job.storage.write(job.run.plan, job.fixed.to_json())
        job.storage.delete(job.run.stop)
        what = "started" if is_new else "started again"
        self._event("run_started", f"{job.spec.name} {what}: {job.plan.total_steps} steps, {job.run.uri}")

    def _event(self, kind: str, message: str, **fields: object) -> None:
        self._view.event(self._ledger.event(kind, message, **fields))

    # --- training ---

    def _train(self) -> bool:
        """Attempts until the last step is committed. Returns False when it was interrupted before."""
        job = self._job
        attempt = max((event.get("attempt", 0) for event in self._ledger.events()), default=0)
        failed = 0
        while True:
            uri, step = self._resume_point()
            if step >= job.fixed.total_steps:
                return True
            if self._interrupt.requested():
                return False
            attempt += 1
            cause = self._attempt(attempt, uri, step)
            if cause is None:
                continue  # it committed the last step, or stopped on request: the next look tells
            if self._interrupt.requested():
                return False
            failed += 1
            decision = retry.decide(failed, job.spec.retry)
            if isinstance(decision, retry.GiveUp):
                raise JobFailedError(
                    f"{job.spec.name}: {decision.reason}. The last one: {cause}\n"
                    f"Step {self._resume_point()[1]} is committed; mend the cause, and the same command goes "
                    "on from there."
                )
            self._view.line(f"next attempt in {decision.delay_seconds:g} s")
            self._interrupt.wait(decision.delay_seconds)

    def _resume_point(self) -> tuple[str | None, int]:
        from orchestrator.checkpoints import newest_good

        good = newest_good(self._job.storage, self._job.run, self._job.fixed)
        for rejected in good.rejected:
            if rejected.uri not in self._rejected:
                self._rejected.add(rejected.uri)
                self._event(
                    "checkpoint_rejected",
                    f"{rejected.uri} is not used: {rejected.reason}",
                    checkpoint=rejected.uri,
                    reason=rejected.reason,
                )
        return good.uri, good.step

    def _attempt(self, attempt: int, resume_from: str | None, step: int) -> str | None:
        """Runs one attempt to its end. Returns the cause when it failed."""
        from orchestrator.attempt import AttemptFailedError, run_attempt
        from workers.train.loop import TrainTask

        job, world_size = self._job, self._job.spec.cluster.workers
        self._event(
            "attempt_started",
            f"attempt {attempt}: {world_size} worker{'s' if world_size > 1 else ''} from step {step}",
            attempt=attempt,
            step=step,
            world_size=world_size,
        )
        task = TrainTask(job.spec, job.fixed, job.index, job.run, attempt, resume_from)
        watched = _Watched(seen_commits=set(committed_steps(job.storage, job.run)))

        def work() -> None:
            try:
                watched.outcome_step = run_attempt(task, job.spec.cluster).step
            except Exception as error:
                watched.failure = error

        # Ray Train takes over SIGINT when it is called from the main thread; ours means "save first".
        thread = threading.Thread(target=work, name=f"attempt-{attempt}", daemon=True)
        thread.start()
        asked = False
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            if self._interrupt.requested() and not asked:
                asked = True
                self._view.line("stopping after the next step, with a checkpoint; again to stop at once")
                job.storage.write(job.run.stop, b"interrupted")
            self._look(attempt, watched)
        if watched.failure is None:
            return None
        failure = watched.failure
        if isinstance(failure, AttemptFailedError):
            cause, details = failure.cause, failure.details
        else:
            cause = details = f"{type(failure).__name__}: {failure}"
        self._event(
            "attempt_failed",
            f"attempt {attempt} failed: {cause}",
            attempt=attempt,
            step=self._last_step(attempt, step),
            cause=cause,
            details=details,
        )
        return cause

    def _look(self, attempt: int, watched: _Watched) -> None:
        """Shows what is new in the run directory, and deletes the checkpoints that are not kept."""
        from orchestrator.checkpoints import delete_older

        job = self._job
        try:
            metrics = self._ledger.last_metrics()
            if metrics and metrics["attempt"] == attempt:
                self._view.progress(metrics, job.fixed.total_steps)
            for step in committed_steps(job.storage, job.run):
                if step not in watched.seen_commits:
                    watched.seen_commits.add(step)
                    self._event(
                        "checkpoint_committed", f"checkpoint at step {step}", attempt=attempt, step=step
                    )
                    delete_older(job.storage, job.run, job.spec.checkpoint.keep_last)
        except StorageError as error:
            # Looking on is not worth a job; the next look tries again.
            self._view.line(f"the run directory did not answer: {error}")

    def _last_step(self, attempt: int, start: int) -> int:
        metrics = self._ledger.last_metrics()
        return metrics["step"] if metrics and metrics["attempt"] == attempt else start

    # --- evaluation ---

    def _evaluate(self) -> bool:
        """Does the evaluations that have no result yet. Returns False when it was interrupted before."""
        job, step = self._job, self._job.fixed.total_steps
        self._event("training_finished", f"all {step} steps are done")
        for name in evaluations.pending(job.spec, job.storage, job.run, step):
            self._event("evaluation_started", f"evaluation {name} of step {step}", evaluation=name, step=step)
            began = time.monotonic()
            evaluated = evaluations.evaluate_with_ray(
                job.spec, job.run, step, name, self._interrupt.requested
            )
            if evaluated is None:
                return False
            if evaluated.fault is None:
                seconds = time.monotonic() - began
                self._event(
                    "evaluation_finished", f"evaluation {name}: done in {seconds:.1f} s", evaluation=name
                )
            else:
                message = f"evaluation {name} failed: {evaluated.fault}"
                self._event("evaluation_failed", message, evaluation=name, reason=evaluated.fault)
        return True
