"""Evaluations beside training, and after it: a thread that looks each second what is due, and what became of the rest.

What is due, `due.py` says; each batch of it is a task on Ray (`evaluation_task.py`), which waits there until it has
room. Training goes first: while an attempt starts, no task does, and tasks that take the room it could use are
cancelled and come again later, at no cost to their `retries`.

Tasks outlive attempts. An evaluation that raises, dies, hangs or finds no room is judged by itself: of a task that
died, the evaluation that ran is to blame, and the others are done again without it. Nothing is kept in memory alone but
the failures: a driver that is started again does what has no result.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection
from dataclasses import replace

from jobspecs.errors import StorageError
from jobspecs.evaluation import Evaluation
from orchestrator import due as planning
from orchestrator.due import MainScore, Progress, Stalled
from orchestrator.evaluation_task import RayTask
from orchestrator.flights import Event, Flights, Start
from orchestrator.journal import Journal
from orchestrator.ledger import Ledger
from orchestrator.prepare import Prepared
from orchestrator.results import main_score_of, main_scores
from workers.repeating import Repeating
from workers.run import RunDirectory, committed_steps
from workers.storage import Storage

POLL_SECONDS = 1.0
FAILED_LOOKS = 30
"""After training, the storage may fail so many looks in a row. Each has tried for a while."""
MOST_WAITING = 5
"""More checkpoints that wait beside training are told of: each is kept as long as it waits."""


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
        self._evaluations = job.spec.evaluations
        start = start or (lambda batch: RayTask(job.spec, job.run, batch))
        self._flights = Flights(self._evaluations, job.spec.cluster, progress_of(job, journal.ledger), start)
        self._held = True  # training starts first
        self._closed = False
        self._lock = threading.Lock()
        """Of all above. Inside it nothing waits for the storage."""
        self._retained = 0
        """Results after which checkpoints were deleted."""
        self._commits: dict[int, str] = {}
        """Tag of each manifest that was seen, by step."""
        self._told_of_waiting = False
        self._failed_looks = 0
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._looking = Repeating("evaluations", POLL_SECONDS, self.look)

    def __enter__(self) -> Evaluations:
        if self._evaluations:
            self._looking.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Ends all tasks. What waits for the storage is not waited for."""
        self._looking.stop()
        with self._lock:
            self._closed = True
            self._flights.cancel(self._flights.there)

    # --- training goes first ---

    def hold(self) -> None:
        """An attempt is about to start: no task begins until `admit`. Those that run go on."""
        with self._lock:
            self._held = True
            self._flights.cancel([flight for flight in self._flights.there if not flight.began])

    def make_room(self) -> None:
        """Ends the tasks that run: the attempt could use their room. They come again."""
        with self._lock:
            displaced = list(self._flights.there)
            self._flights.cancel(displaced)
        for flight in displaced:
            names = ", ".join(evaluation.name for evaluation in flight.left)
            self._journal.event(
                "evaluation_displaced",
                f"{names} of step {flight.batch.step} makes room for training, and comes again later",
                evaluations=[evaluation.name for evaluation in flight.left],
                step=flight.batch.step,
            )

    def are_running(self) -> bool:
        """Whether tasks have room that `make_room` would free."""
        with self._lock:
            return bool(self._flights.there)

    def admit(self) -> None:
        """The attempt has its workers, or there is none to start: tasks may begin."""
        with self._lock:
            self._held = False

    # --- what others ask ---

    @property
    def scored(self) -> int:
        """Results that have come: with each, other checkpoints may be the best."""
        return self._flights.scored

    def needed(self, committed: Collection[int]) -> set[int]:
        """Those of the `committed` steps whose checkpoints must stay for what is still to be done."""
        with self._lock:
            self._flights.see(committed)
            running = {flight.batch.step for flight in self._flights.there}
            return running | planning.needed(self._evaluations, self._flights.progress)

    def stalled(self) -> Stalled | None:
        """Whether training shall end, because an evaluation finds nothing better any more."""
        with self._lock:
            return planning.stalled(self._job.spec.stop, self._evaluations, self._flights.progress)

    # --- after training ---

    def finish(self, last: int) -> None:
        """Training has ended with the checkpoint at the step `last`."""
        with self._lock:
            self._flights.finish(last)
            self._held = False
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
            if self._flights.progress.last is not None and self._failed_looks >= FAILED_LOOKS:
                self._error = error
        except BaseException as error:
            self._error = error
            # Training goes on, and the job fails of it when it is done: nobody should learn it only then.
            self._journal.line(f"evaluations have stopped: {type(error).__name__}: {error}")
        return self._error is not None or self._closed

    def _look_once(self) -> None:
        last = self._flights.progress.last  # before the listing, which has its checkpoint then
        commits = _commits(self._job.storage, self._job.run)
        committed = sorted(commits)
        with self._lock:
            if self._closed:
                return
            self._flights.see(committed)
            self._forget_replaced(commits)
            events = self._flights.take_in() + self._waiting()
            over = [flight for flight in self._flights.there if flight.over is not None]
        self._tell(events)
        for flight in over:
            # It may have written a result that its death kept from being told.
            written = {each.name: self._written(flight.batch.step, each) for each in flight.left}
            with self._lock:
                events = self._flights.close(flight, written)
            self._tell(events)
        with self._lock:
            if not self._held and not self._closed:
                self._flights.begin()
            scored, busy = self.scored, bool(self._flights.there)
        if last is None:
            return
        if scored != self._retained:
            self._retain(committed)
            self._retained = scored
        if not busy:
            self._done.set()

    def _forget_replaced(self, commits: dict[int, str]) -> None:
        """Checkpoints that were withdrawn and made again are new ones: what failed of the old ones may go well. The
        results of the old ones stay."""
        replaced = {step for step, tag in commits.items() if self._commits.get(step, tag) != tag}
        self._commits.update(commits)
        self._flights.cancel([flight for flight in self._flights.there if flight.batch.step in replaced])
        self._flights.progress = self._flights.progress.without_failures(replaced)

    def _waiting(self) -> list[Event]:
        """Tells once if many checkpoints wait beside training."""
        progress = self._flights.progress
        running = {flight.batch.step for flight in self._flights.there if flight.began}
        waiting = planning.unfinished(self._evaluations, progress) - running
        if self._told_of_waiting or progress.last is not None or len(waiting) <= MOST_WAITING:
            return []
        self._told_of_waiting = True
        message = (
            f"{len(waiting)} checkpoints wait to be evaluated, and are kept as long as they wait: the run directory "
            "grows while evaluations come slower than commits. Give them smaller `resources` or a larger "
            "`every_checkpoints`, or give the cluster room for them beside training"
        )
        return [Event("evaluations_wait", message, {"waiting": len(waiting)})]

    def _written(self, step: int, evaluation: Evaluation) -> MainScore | None:
        return main_score_of(self._job.storage, self._job.run, step, evaluation)

    def _retain(self, committed: Collection[int]) -> None:
        """Beside an attempt its bookkeeping does it."""
        from orchestrator.checkpoints import retain  # torch, which the driver starts without

        retain(self._job.storage, self._job.run, self._job.spec, 0, in_use=self.needed(committed))

    def _tell(self, events: list[Event]) -> None:
        for event in events:
            self._journal.event(event.kind, event.message, **event.fields)


def _commits(storage: Storage, run: RunDirectory) -> dict[int, str]:
    """The tag of each commit's manifest, by step, as `committed_steps` has them. Raises StorageError."""
    manifest = re.compile(re.escape(run.checkpoints) + r"/step-(\d{8,})/manifest\.json")
    found = ((manifest.fullmatch(info.uri), info.etag) for info in storage.list(run.checkpoints))
    return {int(match[1]): tag for match, tag in found if match}


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
