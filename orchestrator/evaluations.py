"""Evaluations beside training, and after it: a thread that looks each second what is due, and what became of the rest.

What is due, `due.py` says; each batch of it is a task on Ray (`evaluation_task.py`), which waits there until it has
room. Training goes first: while an attempt starts, no task does, and tasks that take the room it could use are
cancelled and come again later, at no cost to their `retries`.

Tasks outlive attempts. An evaluation that raises, dies, hangs or finds no room is judged by itself: of a task that
died, the evaluation that ran is to blame, and the others are done again without it. Nothing is kept in memory alone but
the failures: a driver that is started again does what has no result.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from jobspecs.errors import StorageError
from jobspecs.evaluation import Evaluation
from orchestrator import due as planning
from orchestrator.due import Batch, Fault, Key, MainScore, Progress, Stalled
from orchestrator.evaluate import Began, Ended
from orchestrator.evaluation_task import News, Over, RayTask, reserved
from orchestrator.journal import Journal
from orchestrator.ledger import Ledger
from orchestrator.prepare import Prepared
from orchestrator.results import main_score_of, main_scores
from workers.repeating import Repeating
from workers.run import committed_steps

POLL_SECONDS = 1.0
AT_ONCE = 4
"""Tasks at a time. More would wait in Ray's queue, or load the storage, for nothing that is needed soon."""
FAILED_LOOKS = 30
"""After training, the storage may fail so many looks in a row. Each has tried for a while."""
LEAST_WAIT_SECONDS = 60.0
"""After training, a task waits for room at least so long: Ray takes some seconds to start a process."""


class Task(Protocol):
    """A task, from its start on."""

    def news(self) -> list[News]:
        """What has come since the last call; does not wait. Nothing comes after `Over`."""

    def cancel(self) -> None:
        """Ends it. What comes of it afterwards is not asked for."""


Start = Callable[[Batch], Task]


@dataclass
class _Flight:
    """A task that waits or runs."""

    batch: Batch
    task: Task
    since: float
    """Monotonic time at which it was started or the evaluation that runs began."""
    left: list[Evaluation]
    """What has not ended; the first of it runs, if any does."""
    began: bool = False
    """Whether it runs: else it waits for room."""
    over: Over | None = None
    """How it ended, until that is judged."""


class Evaluations:
    """Does the evaluations of a run while the context is open.

    with Evaluations(job, journal) as evaluations:
        evaluations.hold(); evaluations.make_room()     an attempt starts
        evaluations.admit()                             it has started
        evaluations.needed(steps)                       which checkpoints must stay
        evaluations.stalled()                           whether training shall end
        evaluations.finish(last)                        it has ended
        while not evaluations.is_done(): …
    """

    def __init__(self, job: Prepared, journal: Journal, start: Start | None = None) -> None:
        """start: starts a task; one on Ray unless told otherwise. Raises StorageError."""
        self._job = job
        self._journal = journal
        self._start = start or (lambda batch: RayTask(job.spec, job.run, batch))
        self._evaluations = job.spec.evaluations
        self._progress = progress_of(job, journal.ledger)
        self._flights: list[_Flight] = []
        self._held = True  # training starts first
        self._closed = False
        self._idle_since = time.monotonic()
        """Monotonic time since which a task waits and none of ours runs."""
        self._lock = threading.Lock()
        """Of all above. Inside it nothing waits for the storage."""
        self._retained = 0
        """Results after which checkpoints were deleted."""
        self._failed_looks = 0
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._looking = Repeating("evaluations", POLL_SECONDS, self.look)
        self.scored = 0
        """Results that have come: with each, other checkpoints may be the best."""

    def __enter__(self) -> Evaluations:
        if self._evaluations:
            self._looking.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Ends all tasks. What waits for the storage is not waited for."""
        self._looking.stop()
        with self._lock:
            self._closed = True
            self._cancel(self._flights)

    # --- training goes first ---

    def hold(self) -> None:
        """An attempt is about to start: no task begins until `admit`. Those that run go on."""
        with self._lock:
            self._held = True
            self._cancel([flight for flight in self._flights if not flight.began])

    def make_room(self) -> None:
        """Ends the tasks that run: the attempt could use their room. They come again."""
        with self._lock:
            displaced = list(self._flights)
            self._cancel(displaced)
        for flight in displaced:
            names = ", ".join(evaluation.name for evaluation in flight.left)
            self._journal.event(
                "evaluation_displaced",
                f"{names} of step {flight.batch.step} makes room for training, and comes again later",
                evaluations=[evaluation.name for evaluation in flight.left],
                step=flight.batch.step,
            )

    def admit(self) -> None:
        """The attempt has its workers, or there is none to start: tasks may begin."""
        with self._lock:
            self._held = False

    # --- what others ask ---

    def needed(self, committed: Collection[int]) -> set[int]:
        """Those of the `committed` steps whose checkpoints must stay for what is still to be done."""
        with self._lock:
            self._see(committed)
            running = {flight.batch.step for flight in self._flights}
            return running | planning.needed(self._evaluations, self._progress)

    def stalled(self) -> Stalled | None:
        """Whether training shall end, because an evaluation finds nothing better any more."""
        with self._lock:
            return planning.stalled(self._job.spec.stop, self._evaluations, self._progress)

    # --- after training ---

    def finish(self, last: int) -> None:
        """Training has ended with the checkpoint at the step `last`."""
        with self._lock:
            self._progress = replace(self._progress, last=last)
            self._held = False
            self._idle_since = time.monotonic()
            if not self._evaluations:
                self._done.set()

    def is_done(self) -> bool:
        """Whether nothing is left to do, since `finish`. Raises what ended the thread, such as a StorageError."""
        if self._error is not None:
            raise self._error
        return self._done.is_set()

    # --- in the thread ---

    def look(self) -> bool:
        """One look. Returns whether there shall be no more."""
        try:
            self._look_once()
            self._failed_looks = 0
        except StorageError as error:
            self._failed_looks += 1
            if self._failed_looks == 1:
                self._journal.line(f"evaluations wait, as the run directory did not answer: {error}")
            if self._progress.last is not None and self._failed_looks >= FAILED_LOOKS:
                self._error = error
        except BaseException as error:
            self._error = error
        return self._error is not None or self._closed

    def _look_once(self) -> None:
        last = self._progress.last  # before the listing, which has its checkpoint then
        committed = committed_steps(self._job.storage, self._job.run)
        with self._lock:
            if self._closed:
                return
            self._see(committed)
            events = [event for flight in self._flights for event in self._take_in(flight)]
            events += self._wait_no_longer()
            over = [flight for flight in self._flights if flight.over is not None]
        self._tell(events)
        for flight in over:
            # It may have written a result that its death kept from being told.
            written = {each.name: self._written(flight.batch.step, each) for each in flight.left}
            with self._lock:
                events = self._close(flight, written)
            self._tell(events)
        with self._lock:
            if not self._held and not self._closed:
                self._begin()
            scored, busy = self.scored, bool(self._flights)
        if last is None:
            return
        if scored != self._retained:
            self._retain(committed)
            self._retained = scored
        if not busy:
            self._done.set()

    def _written(self, step: int, evaluation: Evaluation) -> MainScore | None:
        return main_score_of(self._job.storage, self._job.run, step, evaluation)

    def _retain(self, committed: Collection[int]) -> None:
        """Beside an attempt its bookkeeping does it."""
        from orchestrator.checkpoints import retain  # torch, which the driver starts without

        retain(self._job.storage, self._job.run, self._job.spec, 0, in_use=self.needed(committed))

    def _tell(self, events: list[_Event]) -> None:
        for event in events:
            self._journal.event(event.kind, event.message, **event.fields)

    # --- in the thread, with the lock ---

    def _see(self, committed: Collection[int]) -> None:
        commits = tuple(sorted({*self._progress.commits, *committed}))
        self._progress = replace(self._progress, commits=commits, there=frozenset(committed))

    def _begin(self) -> None:
        running = {key for flight in self._flights for key in flight.batch.keys}
        for batch in planning.due(self._evaluations, self._progress, running)[: AT_ONCE - len(self._flights)]:
            self._flights.append(_Flight(batch, self._start(batch), time.monotonic(), list(batch.evaluations)))

    def _take_in(self, flight: _Flight) -> list[_Event]:
        """What a task has told."""
        events: list[_Event] = []
        for news in flight.task.news() if flight.over is None else ():
            match news:
                case Began(name):
                    flight.began, flight.since = True, time.monotonic()
                    events.append(_event("started", name, flight.batch.step, "begins"))
                case Ended(name):
                    flight.left = [each for each in flight.left if each.name != name]
                    events.append(self._ended(flight.batch.step, news))
                case Over():
                    flight.over = news
        if flight.over is None and flight.began and flight.left:
            limit = flight.left[0].timeout_seconds
            if time.monotonic() - flight.since > limit:
                flight.task.cancel()
                flight.over = Over(f"it took longer than its timeout_seconds, {limit:g}")
        return events

    def _close(self, flight: _Flight, written: Mapping[str, MainScore | None]) -> list[_Event]:
        """Takes a task away that is over. What it left undone is due again, but the one that ran has failed."""
        if flight not in self._flights:  # cancelled meanwhile
            return []
        self._flights.remove(flight)
        assert flight.over is not None
        step, events, to_blame = flight.batch.step, [], flight.over.cause or "its task ended before it"
        for evaluation in flight.left:
            score = written[evaluation.name]
            if score is not None:
                events.append(self._ended(step, Ended(evaluation.name, score)))
            elif to_blame:
                events.append(self._ended(step, Ended(evaluation.name, fault=Fault(to_blame))))
                to_blame = ""
        return events

    def _wait_no_longer(self) -> list[_Event]:
        """After training, a task that finds no room though none of ours has it fails for good."""
        now, first = time.monotonic(), next(iter(self._flights), None)
        if self._progress.last is None or first is None or any(flight.began for flight in self._flights):
            self._idle_since = now
            return []
        waited = now - self._idle_since
        cluster = self._job.spec.cluster
        if waited < max(cluster.wait_seconds, LEAST_WAIT_SECONDS):
            return []
        self._idle_since = now
        self._cancel([first])
        wanted = reserved(first.left[0].resources, cluster)
        fault = Fault(
            f"waited {waited:.0f} s (cluster.wait_seconds) for {wanted.cpus} CPUs and {wanted.gpus} GPUs on one node. "
            "Lower its `resources`, or add nodes",
            final=True,
        )
        return [self._ended(first.batch.step, Ended(evaluation.name, fault=fault)) for evaluation in first.left]

    def _ended(self, step: int, ended: Ended) -> _Event:
        """Notes how an evaluation ended."""
        key: Key = step, ended.name
        if (score := ended.score) is not None:
            self._progress = replace(self._progress, results={**self._progress.results, key: score})
            self.scored += 1
            return _event(
                "finished",
                ended.name,
                step,
                f"{score.name} {score.value:.4f}, in {ended.seconds:.1f} s",
                main=score.name,
                score=score.value,
                seconds=ended.seconds,
            )
        fault = ended.fault
        assert fault is not None
        failures = (*self._progress.failures.get(key, ()), fault)
        self._progress = replace(self._progress, failures={**self._progress.failures, key: failures})
        evaluation = next(each for each in self._evaluations if each.name == ended.name)
        again = planning.is_open(evaluation, step, self._evaluations, self._progress)
        words = f"failed: {fault.cause}{' (it is tried again)' if again else ''}"
        return _event("failed", ended.name, step, words, reason=fault.cause, again=again)

    def _cancel(self, flights: Collection[_Flight]) -> None:
        for flight in flights:
            flight.task.cancel()
        self._flights = [flight for flight in self._flights if flight not in flights]


@dataclass(frozen=True)
class _Event:
    """Something for the journal."""

    kind: str
    message: str
    fields: dict[str, Any]


def _event(kind: str, name: str, step: int, words: str, **fields: object) -> _Event:
    return _Event(
        f"evaluation_{kind}", f"evaluation {name} of step {step}: {words}", {"evaluation": name, "step": step, **fields}
    )


def progress_of(job: Prepared, ledger: Ledger) -> Progress:
    """What there is of the run. Raises StorageError."""
    committed = committed_steps(job.storage, job.run)
    told = (event["step"] for event in ledger.events() if event["event"] == "checkpoint_committed")
    return Progress(
        commits=tuple(sorted({*committed, *told})),
        there=frozenset(committed),
        results=main_scores(job.storage, job.run, job.spec.evaluations),
    )


def is_finished(job: Prepared, ledger: Ledger) -> bool:
    """Whether training has come to its end, and nothing is left to evaluate. Raises StorageError."""
    progress, evaluations = progress_of(job, ledger), job.spec.evaluations
    last = max(progress.there, default=0)
    trained = last == job.fixed.total_steps or planning.stalled(job.spec.stop, evaluations, progress) is not None
    return trained and not planning.due(evaluations, replace(progress, last=last))
