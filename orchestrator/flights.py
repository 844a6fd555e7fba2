"""The evaluation tasks of a run in flight, and what becomes of them. Nothing here waits, nor touches the storage.

A task tells how it gets on (`evaluation_task.py`); what follows for each of its evaluations is noted in a `Progress`,
out of which `due.py` says what is next. What is to be written down comes back as events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from jobspecs.cluster import Cluster
from jobspecs.evaluation import Evaluation
from orchestrator import due as planning
from orchestrator.due import Batch, Fault, Key, MainScore, Progress
from orchestrator.evaluate import Began, Ended
from orchestrator.evaluation_task import News, Over, reserved

AT_ONCE = 4
"""Tasks at a time. More would wait in Ray's queue, or load the storage, for nothing that is needed soon."""
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
class Flight:
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


@dataclass(frozen=True)
class Event:
    """Something for the journal."""

    kind: str
    message: str
    fields: dict[str, Any]


def _event(kind: str, name: str, step: int, words: str, **fields: object) -> Event:
    return Event(
        f"evaluation_{kind}", f"evaluation {name} of step {step}: {words}", {"evaluation": name, "step": step, **fields}
    )


class Flights:
    """Tasks that wait or run. Not thread-safe."""

    def __init__(self, evaluations: Sequence[Evaluation], cluster: Cluster, progress: Progress, start: Start) -> None:
        self._evaluations = evaluations
        self._cluster = cluster
        self._start = start
        self.progress = progress
        self.there: list[Flight] = []
        self.scored = 0
        """Results that have come."""
        self._idle_since = time.monotonic()
        """Monotonic time since which a task waits and none of ours runs."""

    def finish(self, last: int) -> None:
        """Training has ended with the checkpoint at the step `last`."""
        self.progress = replace(self.progress, last=last)
        self._idle_since = time.monotonic()

    def take_in(self) -> list[Event]:
        """What tasks have told. Those that are over have it in `over`, and are to be closed."""
        events = [event for flight in self.there for event in self._take_in(flight)]
        return events + self._wait_no_longer()

    def see(self, committed: Collection[int]) -> None:
        """Which checkpoints are there now."""
        commits = tuple(sorted({*self.progress.commits, *committed}))
        self.progress = replace(self.progress, commits=commits, there=frozenset(committed))

    def begin(self) -> None:
        """Starts what is due."""
        running = {key for flight in self.there for key in flight.batch.keys}
        for batch in planning.due(self._evaluations, self.progress, running)[: AT_ONCE - len(self.there)]:
            self.there.append(Flight(batch, self._start(batch), time.monotonic(), list(batch.evaluations)))

    def _take_in(self, flight: Flight) -> list[Event]:
        """What a task has told."""
        events: list[Event] = []
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

    def close(self, flight: Flight, written: Mapping[str, MainScore | None]) -> list[Event]:
        """Takes a task away that is over. What it left undone is due again, but the one that ran has failed.

        written: of what is left of it, the results that are in the run directory all the same.
        """
        if flight not in self.there:  # cancelled meanwhile
            return []
        self.there.remove(flight)
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

    def _wait_no_longer(self) -> list[Event]:
        """After training, a task that finds no room though none of ours has it fails for good."""
        now, first = time.monotonic(), next(iter(self.there), None)
        if self.progress.last is None or first is None or any(flight.began for flight in self.there):
            self._idle_since = now
            return []
        waited = now - self._idle_since
        cluster = self._cluster
        if waited < max(cluster.wait_seconds, LEAST_WAIT_SECONDS):
            return []
        self._idle_since = now
        self.cancel([first])
        wanted = reserved(first.left[0].resources, cluster)
        fault = Fault(
            f"waited {waited:.0f} s (cluster.wait_seconds) for {wanted.cpus} CPUs and {wanted.gpus} GPUs on one node. "
            "Lower its `resources`, or add nodes",
            final=True,
        )
        return [self._ended(first.batch.step, Ended(evaluation.name, fault=fault)) for evaluation in first.left]

    def _ended(self, step: int, ended: Ended) -> Event:
        """Notes how an evaluation ended."""
        key: Key = step, ended.name
        if (score := ended.score) is not None:
            self.progress = replace(self.progress, results={**self.progress.results, key: score})
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
        failures = (*self.progress.failures.get(key, ()), fault)
        self.progress = replace(self.progress, failures={**self.progress.failures, key: failures})
        evaluation = next(each for each in self._evaluations if each.name == ended.name)
        again = planning.is_open(evaluation, step, self._evaluations, self.progress)
        words = f"failed: {fault.cause}{' (it is tried again)' if again else ''}"
        return _event("failed", ended.name, step, words, reason=fault.cause, again=again)

    def cancel(self, flights: Collection[Flight]) -> None:
        """Ends tasks. What they left undone is due again, at no cost."""
        for flight in flights:
            flight.task.cancel()
        self.there = [flight for flight in self.there if flight not in flights]
