"""What the driver does in the run directory while an attempt runs: shows its steps, writes down its commits, deletes
checkpoints that are superfluous, lets evaluations in, and asks it to end where that is wanted.

All of it waits for the storage, in a thread of its own: one that accepts and does not answer holds up nothing but this.

An attempt is asked to end by the object `stop` in the run directory: its ranks commit the next step and end. The word
in it says why.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from jobspecs.errors import AlreadyExistsError, StorageError, TandemError
from orchestrator import ray_cluster
from orchestrator.elastic import grown_size
from orchestrator.evaluations import Evaluations
from orchestrator.interrupt import Interrupt
from orchestrator.journal import Journal
from orchestrator.prepare import Prepared
from orchestrator.record_tail import RecordTail
from orchestrator.stop_request import Why, requested
from orchestrator.workforce import Workforce
from workers.repeating import Repeating
from workers.run import committed_steps

POLL_SECONDS = 1.0
LAST_TRIES = 3
"""Of the last look at an attempt: there is none after it."""


class Bookkeeping:
    """Keeps the books of one attempt, in a thread while the context is open.

    with Bookkeeping(…) as books:        what the thread does is left at once where the block is, by an exception
        …
        books.end(stacks)                the attempt has ended
        while not books.join(1.0): …     until the last look at it is done
        books.check()
    books.asked
    """

    def __init__(
        self,
        job: Prepared,
        journal: Journal,
        interrupt: Interrupt,
        workforce: Workforce,
        evaluations: Evaluations,
        nodes: Callable[[], set[str]],
        *,
        attempt: int,
        start: int,
        world_size: int,
    ) -> None:
        """nodes: says which nodes have ranks, by Ray's ids. start: the step that the attempt goes on from.

        Raises StorageError.
        """
        self._job = job
        self._journal = journal
        self._interrupt = interrupt
        self._workforce = workforce
        self._evaluations = evaluations
        self._scored = evaluations.scored
        self._nodes = nodes
        self._attempt = attempt
        self._start = start
        self._world_size = world_size
        self._tail = RecordTail(job.storage, job.run, attempt)
        self._newest: dict[str, Any] | None = None
        self._began = time.monotonic()
        self._seen = _told(journal, committed_steps(job.storage, job.run))
        self._stacks: Mapping[int, str] = {}
        self._ended = threading.Event()
        self._abandoned = threading.Event()
        self._error: BaseException | None = None
        self._keeping = Repeating("bookkeeping", POLL_SECONDS, self._keep, once_more=True)
        self.asked: Why | None = None
        """Why the attempt was asked to end, if it was."""

    def __enter__(self) -> Bookkeeping:
        self._keeping.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What waits for the storage is not waited for, and nothing else is begun."""
        self._abandoned.set()
        self._keeping.stop()

    def check(self) -> None:
        """Raises what ended the thread, if something has: a storage that does not answer is not among it."""
        if self._error is not None:
            raise self._error

    def end(self, stacks: Mapping[int, str]) -> None:
        """The attempt has ended: looks once more at what it did, and writes the ranks' stacks down."""
        self._stacks = stacks
        self._ended.set()
        self._keeping.stop()

    def join(self, timeout_seconds: float) -> bool:
        """Waits for the last look. Returns whether it is done."""
        return self._keeping.join(timeout_seconds)

    # --- in the thread ---

    def _keep(self) -> bool:
        is_last = self._ended.is_set()
        try:
            if not is_last:
                self._try(self._look)
            else:
                for work in (self._look, self._write_stacks, self._see_who_asked):
                    self._try(work, times=LAST_TRIES)
        except BaseException as error:
            self._error = error
        return self._error is not None or self._abandoned.is_set()

    def _try(self, work: Callable[[], None], times: int = 1) -> None:
        from ray.exceptions import RayError

        for number in range(times):
            try:
                work()
                return
            except (StorageError, RayError) as error:
                # Looking on is not worth a job; the next look tries again.
                what = "the run directory" if isinstance(error, StorageError) else "Ray"
                self._journal.line(f"{what} did not answer: {error}")
            if number < times - 1 and not self._abandoned.is_set():
                time.sleep(POLL_SECONDS)

    def _look(self) -> None:
        from orchestrator.checkpoints import retain  # torch, which the driver starts without

        job = self._job
        if self._nodes():  # the ranks are up: what they need is theirs
            self._evaluations.admit()
        self._look_at_requests()
        records = self._tail.new()
        if records:
            self._newest = records[-1]
            self._journal.steps(records)
        if self._newest is not None:
            self._journal.view.progress(self._newest, job.fixed.total_steps)
        committed = committed_steps(job.storage, job.run)
        scored = self._evaluations.scored
        new = [step for step in committed if step not in self._seen]
        for step in new:
            if not self._abandoned.is_set():
                self._seen.add(step)
                self._journal.event(
                    "checkpoint_committed",
                    f"checkpoint at step {step}",
                    attempt=self._attempt,
                    step=step,
                    **self._cost_of(step),
                )
        if (new or scored != self._scored) and not self._abandoned.is_set():
            # What is new is not superfluous yet: a commit that a replaced attempt makes late is no good.
            in_use = {self._start, *new} | self._evaluations.needed(committed)
            retain(job.storage, job.run, job.spec, self._attempt, in_use=in_use)
            self._scored = scored
        if any(step < job.fixed.total_steps for step in new):
            self._grow()

    def _cost_of(self, step: int) -> dict[str, float]:
        """Size of a commit, and the time that it took; nothing where its manifest can't be read."""
        from workers.train.checkpoint import read_manifest  # torch, which the driver starts without

        try:
            manifest = read_manifest(self._job.storage, self._job.run.checkpoint(step))
        except TandemError:  # it may be withdrawn already; the event does not wait for it
            return {}
        return {"bytes": sum(file.size for file in manifest.files), "seconds": manifest.seconds}

    def _look_at_requests(self) -> None:
        if requested(self._job.storage, self._job.run) is Why.NOW:
            self._interrupt.at_once()
            if self._interrupt.has_handlers:
                return  # else nobody ends the ranks, and they are asked to save instead
        if self._interrupt.requested() and self.asked is not Why.INTERRUPTED:
            self._ask(Why.INTERRUPTED, "stopping after the next step, with a checkpoint; again to stop at once")
        if self.asked is None and (going := ray_cluster.draining_nodes() & self._nodes()):
            nodes = ", ".join(sorted(node[:8] for node in going))
            self._ask(Why.PREEMPTED, f"node {nodes} is about to be taken away: saving, and going on without it")
        if self.asked is None and (stalled := self._evaluations.stalled()) is not None:
            self._ask(Why.EARLY_STOP, f"{stalled}: saving, and ending training early")

    def _grow(self) -> None:
        if self.asked is not None or len(self._workforce.sizes) == 1:
            return
        size = grown_size(
            self._workforce.sizes,
            self._workforce.room_to_grow(held=self._world_size),
            self._world_size,
            ran_seconds=time.monotonic() - self._began,
            cluster=self._workforce.cluster,
        )
        if size is not None:
            self._ask(Why.GROW, f"there is room for {size} workers: saving, and going on with them", world_size=size)

    def _ask(self, why: Why, message: str, **fields: object) -> None:
        job = self._job
        if self._abandoned.is_set():
            return
        try:
            # The user's own request may take the place of any: it says the same as another's.
            job.storage.write(job.run.stop, why.encode(), if_absent=why is not Why.INTERRUPTED)
        except AlreadyExistsError:
            self.asked = requested(job.storage, job.run)
            if self.asked is not why:  # else it is our own write, whose answer got lost
                return
        self.asked = why
        self._journal.event("stop_requested", message, attempt=self._attempt, reason=why, **fields)

    def _write_stacks(self) -> None:
        for rank, stacks in self._stacks.items():
            if not self._abandoned.is_set():
                self._job.storage.write(self._job.run.stacks(self._attempt, rank), stacks.encode())

    def _see_who_asked(self) -> None:
        """Another's request, which may have come over ours, counts before it."""
        there = requested(self._job.storage, self._job.run)
        self.asked = there if there is Why.INTERRUPTED else self.asked or there


def _told(journal: Journal, committed: list[int]) -> set[int]:
    """Those whose commit is in the event log: a driver that died may have had no time to write the last one down."""
    events = journal.ledger.events()
    return {event["step"] for event in events if event["event"] == "checkpoint_committed"}.intersection(committed)
