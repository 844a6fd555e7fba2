"""What `tandem logs` prints: the driver's story or the ranks' output, as it is or as it grows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.cluster import NoAnswerError, RayJobs
from orchestrator.jobs import Job
from orchestrator.kept_logs import KeptLogs, Line
from orchestrator.ledger import Ledger, State

POLL_SECONDS = 2.0
AFTERMATH_LOOKS = 3
"""What ranks wrote last is kept some seconds after the run has ended."""
PATIENCE_SECONDS = 120.0
"""A dashboard that is busy, or starts anew, answers again within so long: who follows a job for days goes on."""

T = TypeVar("T")


@dataclass(frozen=True)
class LogLine:
    """A line: the JSON of `tandem logs -o json`."""

    line: str
    attempt: int | None = None
    """None: the driver's."""
    rank: int | None = None
    time: float | None = None
    """Unix time, where it is known."""

    @property
    def text(self) -> str:
        """As it is printed."""
        if self.rank is not None:
            return f"[a{self.attempt} r{self.rank}] {self.line}"
        clock = "" if self.time is None else time.strftime("%H:%M:%S  ", time.localtime(self.time))
        return f"{clock}{self.line}"


def lines_of(job: Job, *, rank: int | None, attempt: int | None, follow: bool) -> Iterator[LogLine]:
    """The ranks' lines where a rank or an attempt is named, else the driver's; follow: to the job's end.

    Raises UsageError: there is no such log, or the cluster does not answer; StorageError.
    """
    if rank is not None or attempt is not None:
        return _of_ranks(KeptLogs(job.storage, job.run, attempt, rank), job.ledger, follow)
    if job.jobs is not None and job.entry is not None:
        return (LogLine(line) for line in of_cluster(job.jobs, job.entry.submission_id, follow=follow))
    return _of_events(job.ledger, follow)


def of_cluster(jobs: RayJobs, submission_id: str, *, follow: bool) -> Iterator[str]:
    """What the driver of a cluster's job has written, line by line. Raises UsageError."""
    seen = 0
    while True:
        is_last = not follow or patiently(lambda: jobs.entry(submission_id)).is_over
        log = patiently(lambda: jobs.log(submission_id))
        end = len(log) if is_last else log.rfind("\n") + 1
        yield from log[seen:end].splitlines()
        if is_last:
            return
        seen = end
        time.sleep(POLL_SECONDS)


def patiently(look: Callable[[], T]) -> T:
    """What `look` at a cluster tells. One that does not answer is asked again for PATIENCE_SECONDS.

    Raises UsageError.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return look()
        except NoAnswerError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(POLL_SECONDS)


def _of_events(ledger: Ledger, follow: bool) -> Iterator[LogLine]:
    """A typed driver writes to its terminal, and to the events."""
    ledger.status()  # is it a run?
    seen = 0
    while True:
        events = ledger.events()
        for event in events[seen:]:
            yield LogLine(event["message"], time=event["time"])
        seen = len(events)
        if not follow or _is_over(ledger):
            return
        time.sleep(POLL_SECONDS)


def _of_ranks(logs: KeptLogs, ledger: Ledger, follow: bool) -> Iterator[LogLine]:
    looks_left = AFTERMATH_LOOKS
    while True:
        yield from map(_of_rank, logs.new())
        if follow and _is_over(ledger):
            looks_left -= 1
        if not follow or not looks_left:
            yield from map(_of_rank, logs.rest())
            logs.check()
            return
        time.sleep(POLL_SECONDS)


def _of_rank(line: Line) -> LogLine:
    return LogLine(line.text, line.attempt, line.rank)


def _is_over(ledger: Ledger) -> bool:
    state: State = ledger.state(ledger.events())
    return state.is_terminal
