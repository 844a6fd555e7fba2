"""Who is told of a run while it runs, beside its event log and the terminal: Ray's metrics, and the trackers that the
spec names. None of them can hold a job up or take it down.

with listening(job, journal): …        the journal tells each event, and the metrics of the steps
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from orchestrator.journal import Journal
    from orchestrator.prepare import Prepared

MOST_WAITING = 10_000
"""Calls that a listener which does not answer may fall behind: some 10 MB, hours of most jobs."""
END_SECONDS = 20.0
"""How long the end of a job waits for what each listener has still to write."""


class Listener(Protocol):
    """Is told of a run."""

    def event(self, event: Mapping[str, Any]) -> None:
        """An event of the ledger."""

    def steps(self, records: Sequence[Mapping[str, Any]]) -> None:
        """New metrics of steps, oldest first."""

    def close(self) -> None:
        """The driver ends."""


@contextlib.contextmanager
def listening(job: Prepared, journal: Journal) -> Iterator[None]:
    """Tells those that the job has while the block runs."""
    from orchestrator.exporter import Exporter
    from orchestrator.telemetry import JOB, RunFigures
    from orchestrator.trackers import trackers_of

    figures = RunFigures(job.fixed.total_steps)
    listeners: dict[str, Callable[[], Listener]] = {"monitoring": lambda: figures, **trackers_of(job)}
    with Exporter(lambda: figures.values, {JOB: job.spec.name}):
        aside = [Aside(name, make, journal.line) for name, make in listeners.items()]
        journal.listeners = aside
        try:
            yield
        finally:
            for each in aside:
                each.close()


class Aside:
    """A listener in a thread of its own. What it raises is told once, and ends it."""

    def __init__(self, name: str, make: Callable[[], Listener], tell: Callable[[str], None]) -> None:
        """make: makes the listener, in the thread. tell: says a line to the user."""
        self._name = name
        self._make = make
        self._tell = tell
        self._waiting: queue.Queue[Callable[[Listener], None] | None] = queue.Queue(MOST_WAITING)
        self._left_out = 0
        self._thread = threading.Thread(target=self._work, name=f"listener {name}", daemon=True)
        self._thread.start()

    def event(self, event: Mapping[str, Any]) -> None:
        """An event of the ledger."""
        self._put(lambda listener: listener.event(event))

    def steps(self, records: Sequence[Mapping[str, Any]]) -> None:
        """New metrics of steps."""
        self._put(lambda listener: listener.steps(records))

    def close(self) -> None:
        """Waits a while for what is still to be written."""
        until = time.monotonic() + END_SECONDS
        while self._thread.is_alive() and time.monotonic() < until:
            with contextlib.suppress(queue.Full):
                self._waiting.put(None, timeout=0.1)
                break
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._tell(f"{self._name} did not answer: it lacks what came last")
        if self._left_out:
            self._tell(f"{self._name} lacks {self._left_out} messages of this run: events, or metrics of steps")

    def _put(self, call: Callable[[Listener], None]) -> None:
        if not self._thread.is_alive():
            return
        try:
            self._waiting.put_nowait(call)
        except queue.Full:
            if not self._left_out:
                self._tell(f"{self._name} does not answer: it will lack part of the run")
            self._left_out += 1

    def _work(self) -> None:
        try:
            listener = self._make()
            while (call := self._waiting.get()) is not None:
                call(listener)
            listener.close()
        except Exception as error:
            self._tell(f"{self._name} is told no more of this run: {type(error).__name__}: {error}")
