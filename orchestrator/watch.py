"""One attempt while it runs, as the driver sees it: shows how it goes, and ends it early where that is wanted.

An attempt is asked to end by the object `stop` in the run directory: its ranks commit the next step and end. The word
in it says why. A rank that hangs can't be asked: the monitor ends its process.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobspecs.errors import AlreadyExistsError, StorageError
from orchestrator import ray_cluster
from orchestrator.elastic import grown_size
from orchestrator.failure import AttemptFailedError, Failure, Kind
from orchestrator.hang import Hang
from orchestrator.interrupt import Interrupt
from orchestrator.journal import Journal
from orchestrator.lease import Lease, TakenOverError
from orchestrator.monitor import Monitor
from orchestrator.prepare import Prepared
from orchestrator.stop_request import Why, requested
from orchestrator.workforce import Workforce
from workers.run import committed_steps

if TYPE_CHECKING:
    from workers.train.loop import Outcome

POLL_SECONDS = 1.0
END_SECONDS = 60.0
"""Ray Train gives up in this time when its workers are killed; the next attempt does not wait for it any longer."""


@dataclass(frozen=True)
class Ended:
    """How an attempt ended: it committed `step`, or failed."""

    step: int = 0
    failure: Failure | None = None
    asked: Why | None = None
    """Why it was asked to end, if it was."""


class Watch:
    """Runs an attempt in a thread and watches it to its end."""

    def __init__(
        self,
        job: Prepared,
        journal: Journal,
        interrupt: Interrupt,
        lease: Lease,
        workforce: Workforce,
        monitor: Monitor,
        *,
        attempt: int,
        start: int,
        world_size: int,
    ) -> None:
        """start: the step that the attempt goes on from."""
        self._job = job
        self._journal = journal
        self._interrupt = interrupt
        self._lease = lease
        self._workforce = workforce
        self._attempt = attempt
        self._start = start
        self._world_size = world_size
        self._monitor = monitor
        self._began = time.monotonic()
        self._seen = set(committed_steps(job.storage, job.run))
        self._asked: Why | None = None
        self._hang: Hang | None = None

    def run(self, work: Callable[[], Outcome]) -> Ended:
        """Waits for the end of `work`, which runs the attempt. Raises TakenOverError."""
        ended: list[int | Failure] = []

        def run() -> None:
            try:
                ended.append(work().step)
            except AttemptFailedError as error:
                ended.append(error.failure)
            except BaseException as error:
                ended.append(Failure(Kind.BUG, f"{type(error).__name__}: {error}", fingerprint=repr(error)))

        # Ray Train takes over SIGINT when it is called from the main thread; ours means "save first".
        thread = threading.Thread(target=run, name=f"attempt-{self._attempt}", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            if self._lease.lost:
                self._monitor.end()
                raise TakenOverError(self._job.spec.name)
            try:
                self._look()
            except StorageError as error:
                # Looking on is not worth a job; the next look tries again.
                self._journal.line(f"the run directory did not answer: {error}")
            if self._hang is not None:
                self._end(thread)
                break
        end = ended[0] if ended else None
        if self._hang is not None and not isinstance(end, int):  # else it was only slow
            hang = self._hang
            return Ended(failure=Failure(Kind.HANG, hang.cause, hang.details, hang.rank), asked=self._why())
        assert end is not None
        if isinstance(end, int):
            return Ended(step=end, asked=self._why())
        return Ended(failure=end, asked=self._why())

    def _end(self, thread: threading.Thread) -> None:
        """Ends an attempt that hangs. What Ray starts meanwhile is ended too."""
        deadline = time.monotonic() + END_SECONDS
        while thread.is_alive() and time.monotonic() < deadline:
            self._monitor.end()
            thread.join(POLL_SECONDS)

    def _look(self) -> None:
        from orchestrator.checkpoints import retain  # torch, which the driver starts without

        job = self._job
        self._look_at_ranks()
        if self._interrupt.requested() and self._asked is not Why.INTERRUPTED:
            self._ask(Why.INTERRUPTED, "stopping after the next step, with a checkpoint; again to stop at once")
        metrics = self._journal.ledger.last_metrics()
        if metrics and metrics["attempt"] == self._attempt:
            self._journal.view.progress(metrics, job.fixed.total_steps)
        for step in committed_steps(job.storage, job.run):
            if step not in self._seen:
                self._seen.add(step)
                self._journal.event(
                    "checkpoint_committed", f"checkpoint at step {step}", attempt=self._attempt, step=step
                )
                retain(job.storage, job.run, job.spec, self._attempt, in_use={self._start})
                if step < job.fixed.total_steps:
                    self._grow()

    def _look_at_ranks(self) -> None:
        self._hang = self._monitor.look()
        if self._hang is None and self._asked is None:
            going = ray_cluster.draining_nodes().intersection(self._monitor.nodes())
            if going:
                nodes = ", ".join(sorted(node[:8] for node in going))
                self._ask(Why.PREEMPTED, f"node {nodes} is about to be taken away: saving, and going on without it")

    def _grow(self) -> None:
        if self._asked is not None or len(self._workforce.sizes) == 1:
            return
        size = grown_size(
            self._workforce.sizes,
            self._workforce.room(held=self._world_size),
            self._world_size,
            ran_seconds=time.monotonic() - self._began,
            cluster=self._workforce.cluster,
        )
        if size is not None:
            self._ask(Why.GROW, f"there is room for {size} workers: saving, and going on with them", world_size=size)

    def _ask(self, why: Why, message: str, **fields: object) -> None:
        job = self._job
        try:
            # The user's own request may take the place of any: it says the same as another's.
            job.storage.write(job.run.stop, why.encode(), if_absent=why is not Why.INTERRUPTED)
        except AlreadyExistsError:
            self._asked = requested(job.storage, job.run)
            if self._asked is not why:  # else it is our own write, whose answer got lost
                return
        self._asked = why
        self._journal.event("stop_requested", message, attempt=self._attempt, reason=why, **fields)

    def _why(self) -> Why | None:
        """Why it was asked to end: another's request, which may have come over ours, counts before it."""
        there = None
        with contextlib.suppress(StorageError):
            there = requested(self._job.storage, self._job.run)
        return there if there is Why.INTERRUPTED else self._asked or there
