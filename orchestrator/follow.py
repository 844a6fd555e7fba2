"""A run that something else drives, shown by a view: what is new in its run directory, until it has ended.

Called by `--follow`. Of the run's events those of the newest go are shown: from the last `run_started` on, of one
submission where it is known. Where neither a terminal nor a program looks on, a cluster's job is shown by its log.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

from jobspecs.errors import StorageError, UsageError
from orchestrator.cluster import Entry, RayJobs
from orchestrator.following import of_cluster, patiently
from orchestrator.ledger import Ledger
from orchestrator.views.choose import Show, is_live, view_of
from orchestrator.views.console import SteadyConsole
from orchestrator.views.view import View

POLL_SECONDS = 2.0
LOG_LINES = 20
"""Of the log of a job that failed: what no event tells is there."""


def follow_run(ledger: Ledger, show: Show) -> None:
    """Shows a run until it has ended, and its results. Raises UsageError: there is none; StorageError."""
    ledger.status()
    with view_of(show, ledger.run.name) as view:
        follow(ledger, view, None, lambda: ledger.state(ledger.events()).is_terminal)
    _show_results(ledger, view)


def follow_job(jobs: RayJobs, submission_id: str, ledger: Ledger, show: Show) -> Entry:
    """Shows a job of a cluster until it has ended, and its results. Returns its entry as it is then.

    Raises UsageError: the cluster does not answer.
    """
    if show is Show.TEXT and not is_live(SteadyConsole()):
        for line in of_cluster(jobs, submission_id, follow=True):
            print(line, flush=True)
        return patiently(lambda: jobs.entry(submission_id))
    with view_of(show, ledger.run.name) as view:
        follow(ledger, view, submission_id, lambda: patiently(lambda: jobs.entry(submission_id)).is_over)
    entry = patiently(lambda: jobs.entry(submission_id))
    if entry.status == "FAILED":
        log = patiently(lambda: jobs.log(submission_id))
        print("\n".join(log.splitlines()[-LOG_LINES:]), file=sys.stderr, flush=True)
    with contextlib.suppress(UsageError, StorageError):  # it may have ended before its run began
        _show_results(ledger, view)
    return entry


def follow(ledger: Ledger, view: View, submission_id: str | None, is_over: Callable[[], bool]) -> None:
    """Shows events and progress until `is_over`. A storage that does not answer for a while is told of.

    Raises what `is_over` does.
    """
    seen = 0
    while True:
        is_last = is_over()
        try:
            seen += _show(ledger, view, submission_id, seen)
        except StorageError as error:
            view.line(f"the run directory did not answer: {error}")
        if is_last:
            return
        time.sleep(POLL_SECONDS)


def of_newest_go(events: list[dict[str, Any]], submission_id: str | None) -> list[dict[str, Any]]:
    """Those from the last `run_started` on. submission_id: whose it must be; no events before it began."""
    starts = [
        place
        for place, event in enumerate(events)
        if event["event"] == "run_started" and submission_id in (None, event.get("submission_id"))
    ]
    return events[starts[-1] :] if starts else []


def _show(ledger: Ledger, view: View, submission_id: str | None, seen: int) -> int:
    """Shows what came after the first `seen` events. Returns how many they were. Raises StorageError."""
    # All is read before anything is shown: where a read fails, the next look begins at the same event.
    events = of_newest_go(ledger.events(), submission_id)
    plan, metrics = ledger.plan(), ledger.last_metrics()
    for event in events[seen:]:
        view.event(event)
    attempts = [event["attempt"] for event in events if event["event"] == "attempt_started"]
    # Those of an older attempt are what the newest begins with: they tell of no progress.
    if plan is not None and metrics is not None and attempts and metrics["attempt"] == attempts[-1]:
        view.progress(metrics, plan.total_steps)
    return len(events[seen:])


def _show_results(ledger: Ledger, view: View) -> None:
    status = ledger.status()
    view.results(status, f"{status.name}: {status.state} after {status.step} steps")
