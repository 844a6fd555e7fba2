"""The job on the cluster: attempts until the last step is committed, evaluations, end state.

The same code drives a job on one machine and on a cluster. It keeps nothing in memory that the run
directory does not hold: killed at any point and started again, it goes on from the newest good commit.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobspecs.errors import JobFailedError, StorageError, TandemError, UsageError
from jobspecs.load import dumps
from orchestrator import evaluations, retry, tokenizers
from orchestrator.lease import Lease
from orchestrator.ledger import Ledger, State, Status
from orchestrator.monitor import Monitor
from orchestrator.prepare import Prepared
from orchestrator.ray_cluster import check_resources, start_ray
from orchestrator.view import View
from workers.data.index_file import to_parquet
from workers.run import committed_steps

if TYPE_CHECKING:
    from workers.train.loop import TrainTask

POLL_SECONDS = 1.0
END_SECONDS = 60.0
"""Ray Train gives up in this time when its workers are killed, mostly at once; the next attempt waits no longer."""


class CommitLostError(TandemError):
    """A commit that an attempt made is not in the run directory."""


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


@dataclass(frozen=True)
class _Ended:
    """How an attempt ended: the step that it committed last, or the cause of its failure."""

    step: int = 0
    cause: str | None = None
    details: str = ""
    final: bool = False
    """Whether another attempt would fail in the same way."""


class Driver:
    """Drives one job to its end."""

    def __init__(self, prepared: Prepared, view: View, interrupt: Interrupt) -> None:
        self._job = prepared
        self._view = view
        self._interrupt = interrupt
        self._ledger = Ledger(prepared.storage, prepared.run)
        self._lease = Lease(prepared.storage, prepared.run)

    def run(self) -> Status:
        """Runs the job, or goes on with it. Returns its status when it succeeded or was interrupted.

        Raises UsageError: it is being run already, the cluster has too little, or the run directory can't
        be written (nothing was started then); JobFailedError.
        """
        job, ledger = self._job, self._ledger
        if self._is_finished():
            self._view.line(f"{job.spec.name} is finished: {job.fixed.total_steps} steps, all evaluations done")
            return ledger.status()
        self._view.line("starting Ray")
        start_ray(job.spec.cluster)
        check_resources(job.spec.cluster)
        try:
            self._lease.take()
        except StorageError as error:
            raise UsageError(f"the run directory can't be used: {error}") from error
        try:
            self._open()
            if self._train() and self._evaluate():
                self._event("run_succeeded", "succeeded")
            else:
                self._event("run_interrupted", "interrupted; the same command goes on from here")
            return ledger.status()
        except KeyboardInterrupt:
            self._event("run_interrupted", "stopped at once; the same command goes on from the last commit")
            raise
        except Exception as error:
            if not self._lease.lost:
                with contextlib.suppress(StorageError):  # whoever called shows it
                    ledger.event("run_failed", f"failed: {error}")
            raise
        finally:
            self._lease.give_back()

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
        job.storage.write(job.run.spec, dumps(job.spec).encode())
        for index in job.indexes:
            job.storage.write(job.run.index(index.source), to_parquet(index))
        if is_new:
            self._write_tokenizers()
            job.storage.write(job.run.plan, job.fixed.to_json())
        job.storage.delete(job.run.stop)
        what = "started" if is_new else "started again"
        self._event(
            "run_started",
            f"{job.spec.name} {what}: {job.plan.total_steps} steps, {job.run.uri}",
            filtered=job.plan.filtered,
        )
        for uri in job.rewritten:
            self._event("shard_rewritten", f"{uri} was written again since the run began; size and count are equal")

    def _write_tokenizers(self) -> None:
        job = self._job
        made = job.tokenizers
        if len(made) < len(job.spec.data.texts):
            self._view.line("training a tokenizer on the texts")
            made = made | tokenizers.train_with_ray(job.spec.data, job.indexes, job.storage, job.spec.seed)
        for name, tokenizer in made.items():
            job.storage.write(job.run.tokenizer(name), tokenizer.to_bytes())

    def _event(self, kind: str, message: str, **fields: object) -> None:
        try:
            event = self._ledger.event(kind, message, **fields)
        except StorageError as error:
            # It is kept, and written with the next one: a job outlives a short outage of its storage.
            self._view.line(f"{message} (not written down yet: {error})")
        else:
            self._view.event(event)

    # --- training ---

    def _train(self) -> bool:
        """Attempts until the last step is committed. Returns False when it was interrupted before.

        Raises JobFailedError.
        """
        job = self._job
        attempt = max((event.get("attempt", 0) for event in self._ledger.events()), default=0)
        failed, step, committed = 0, 0, 0
        while True:
            try:
                uri, step = self._resume_point()
                if step < committed:
                    raise CommitLostError(
                        f"step {committed} was committed and can't be read back, {step} can. All nodes must "
                        f"see the same {job.run.uri}: set storage.root to storage that they share."
                    )
                if step >= job.fixed.total_steps:
                    return True
                if self._interrupt.requested() or committed:
                    return False  # an attempt that commits and ends before the last step was asked to
                attempt += 1
                ended = self._attempt(attempt, uri, step)
            except (StorageError, CommitLostError) as error:
                ended = _Ended(cause=f"{type(error).__name__}: {error}")
            committed = ended.step
            if ended.cause is None:
                continue
            self._failed(attempt, step, ended)
            failed += 1
            decision = retry.decide(failed, job.spec.retry)
            with contextlib.suppress(StorageError):
                step = max([step, *committed_steps(job.storage, job.run)])
            kept = f"Step {step} is committed" if step else "Nothing is committed yet"
            kept += "; mend the cause, and the same command goes on from there."
            if self._interrupt.requested():
                raise JobFailedError(f"{job.spec.name}: it failed before it could save: {ended.cause}\n{kept}")
            if ended.final:
                raise JobFailedError(f"{job.spec.name}: {ended.cause}\n{kept}")
            if isinstance(decision, retry.GiveUp):
                raise JobFailedError(f"{job.spec.name}: {decision.reason}. The last one: {ended.cause}\n{kept}")
            self._view.line(f"next attempt in {decision.delay_seconds:g} s")
            self._interrupt.wait(decision.delay_seconds)

    def _resume_point(self) -> tuple[str | None, int]:
        """The newest good checkpoint and its step. The newer ones that are not are withdrawn: they must
        not count as commits any more, nor be kept in place of good ones."""
        from orchestrator.checkpoints import newest_good
        from workers.train.checkpoint import withdraw

        good = newest_good(self._job.storage, self._job.run, self._job.fixed)
        for rejected in good.rejected:
            withdraw(self._job.storage, rejected.uri)
            message = f"{rejected.uri} is not used: {rejected.reason}"
            self._event("checkpoint_rejected", message, checkpoint=rejected.uri, reason=rejected.reason)
        return good.uri, good.step

    def _attempt(self, attempt: int, resume_from: str | None, step: int) -> _Ended:
        """Runs one attempt to its end. Raises StorageError, JobFailedError."""
        from workers.train.loop import TrainTask

        job, world_size = self._job, self._job.spec.cluster.workers
        self._event(
            "attempt_started",
            f"attempt {attempt}: {world_size} worker{'s' if world_size > 1 else ''} from step {step}",
            attempt=attempt,
            step=step,
            world_size=world_size,
        )
        task = TrainTask(job.spec, job.fixed, job.run, attempt, resume_from)
        monitor = Monitor(
            job.storage,
            job.run,
            attempt=attempt,
            world_size=world_size,
            hang_after_seconds=job.spec.retry.hang_after_seconds,
        )
        with contextlib.closing(monitor):
            return self._watch(attempt, task, monitor)

    def _watch(self, attempt: int, task: TrainTask, monitor: Monitor) -> _Ended:
        """Runs the attempt in a thread, and looks at it until it ends. Raises StorageError, JobFailedError."""
        from orchestrator.attempt import AttemptFailedError, run_attempt

        job = self._job
        ended: list[_Ended] = []

        def work() -> None:
            try:
                ended.append(_Ended(step=run_attempt(task, job.spec.cluster, monitor.beats).step))
            except AttemptFailedError as error:
                ended.append(_Ended(cause=error.cause, details=error.details, final=error.final))
            except BaseException as error:
                ended.append(_Ended(cause=f"{type(error).__name__}: {error}", details=traceback.format_exc()))

        seen = set(committed_steps(job.storage, job.run))
        # Ray Train takes over SIGINT when it is called from the main thread; ours means "save first".
        thread = threading.Thread(target=work, name=f"attempt-{attempt}", daemon=True)
        thread.start()
        asked = False
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            if self._lease.lost:
                raise JobFailedError(f"{job.spec.name}: another process has taken over this run.")
            hang = monitor.look()
            if hang is not None:
                deadline = time.monotonic() + END_SECONDS
                while thread.is_alive() and time.monotonic() < deadline:
                    monitor.end()
                    thread.join(POLL_SECONDS)
                if ended and ended[0].cause is None:  # it was only slow
                    return ended[0]
                return _Ended(cause=hang.cause, details=hang.details)
            try:
                if self._interrupt.requested() and not asked:
                    job.storage.write(job.run.stop, b"interrupted")
                    asked = True
                    self._view.line("stopping after the next step, with a checkpoint; again to stop at once")
                self._look(attempt, seen)
            except StorageError as error:
                # Looking on is not worth a job; the next look tries again.
                self._view.line(f"the run directory did not answer: {error}")
        return ended[0]

    def _look(self, attempt: int, seen: set[int]) -> None:
        """Shows what is new in the run directory, and deletes the checkpoints that are not kept."""
        from orchestrator.checkpoints import delete_older

        job = self._job
        metrics = self._ledger.last_metrics()
        if metrics and metrics["attempt"] == attempt:
            self._view.progress(metrics, job.fixed.total_steps)
        for step in committed_steps(job.storage, job.run):
            if step not in seen:
                seen.add(step)
                self._event("checkpoint_committed", f"checkpoint at step {step}", attempt=attempt, step=step)
                delete_older(job.storage, job.run, job.spec.checkpoint.keep_last)

    def _failed(self, attempt: int, start: int, ended: _Ended) -> None:
        step = start
        with contextlib.suppress(StorageError):
            metrics = self._ledger.last_metrics()
            if metrics and metrics["attempt"] == attempt:
                step = metrics["step"]
        self._event(
            "attempt_failed",
            f"attempt {attempt} failed: {ended.cause}",
            attempt=attempt,
            step=step,
            cause=ended.cause,
            details=ended.details,
        )

    # --- evaluation ---

    def _evaluate(self) -> bool:
        """Does the evaluations that have no result yet. Returns False when it was interrupted before."""
        job, step = self._job, self._job.fixed.total_steps
        self._event("training_finished", f"all {step} steps are done")
        for name in evaluations.pending(job.spec, job.storage, job.run, step):
            self._event("evaluation_started", f"evaluation {name} of step {step}", evaluation=name, step=step)
            began = time.monotonic()
            evaluated = evaluations.evaluate_with_ray(job.spec, job.run, step, name, self._interrupt.requested)
            if evaluated is None:
                return False
            if evaluated.fault is None:
                seconds = time.monotonic() - began
                self._event("evaluation_finished", f"evaluation {name}: done in {seconds:.1f} s", evaluation=name)
            else:
                message = f"evaluation {name} failed: {evaluated.fault}"
                self._event("evaluation_failed", message, evaluation=name, reason=evaluated.fault)
        return True
