"""`tandem stop`: asks the driver of a run to end, wherever it runs.

A job of a Ray cluster is stopped through the cluster, which then shows it as stopped; its driver commits first, as on
Ctrl-C. Any other driver is asked in the run directory (`stop_request.py`), and so is one that shall end at once.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from jobspecs.errors import TandemError, UsageError
from jobspecs.storage import S3
from orchestrator.jobs import Connect, Job
from orchestrator.lease import Driver, live_driver
from orchestrator.run_argument import run_argument
from orchestrator.stop_request import Why
from workers.run_inputs import load_spec
from workers.storage import join
from workers.train.fence import newest_driver

BEGIN_SECONDS = 60.0
"""A driver that has just taken the run clears older requests away, and says then that it has begun."""
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Stopped:
    """What was done: the JSON of `tandem stop -o json`."""

    name: str
    submission_id: str | None
    run_directory: str
    asked: bool
    """False: there was nothing to stop."""
    message: str


def stop(job: Job, *, now: bool, connect: Connect) -> Stopped:
    """Asks, and does not wait. connect: the cluster that the user names, for a run
    that was found without one.

    Raises UsageError: the cluster does not answer; StorageError.
    """
    driver = live_driver(job.storage, job.run)
    entry = job.entry if job.entry is not None and not job.entry.is_over else None
    submission_id = entry.submission_id if entry is not None else driver.submission_id if driver is not None else None
    if submission_id is None and driver is None:
        message = (
            f"{job.run.name} does not run; `tandem status {run_argument(job.run.uri, _s3(job))}` says how it ended"
        )
        return Stopped(job.run.name, None, job.run.uri, False, message)
    how = "at once" if now else "with a commit"
    # A driver that is interrupted ends at once when it is interrupted again: each is asked in one way.
    jobs = None if submission_id is None else job.jobs or connect()
    if driver is not None and (now or jobs is None):
        # First: a driver that is interrupted already looks for no request.
        _wait_until_begun(job, driver)
        word = Why.NOW if now else Why.INTERRUPTED
        job.storage.write(job.run.stop, word.encode())
    if jobs is not None and submission_id is not None:
        jobs.stop(submission_id)
    run = run_argument(job.run.uri, _s3(job))
    message = f"asked {submission_id or job.run.name} to stop {how}; `tandem status {run}` says when it has"
    return Stopped(job.run.name, submission_id, job.run.uri, True, message)


def _s3(job: Job) -> S3:
    """How the run's S3 is reached: as the cluster says, or the run's spec; as AWS's where neither can be read."""
    with contextlib.suppress(TandemError, ValueError):  # what was asked for is done all the same
        if job.entry is not None:
            return S3(endpoint=job.entry.s3_endpoint)
        if job.run.uri.startswith("s3://"):
            return load_spec(job.storage, job.run).storage.s3
    return S3()


def _wait_until_begun(job: Job, driver: Driver) -> None:
    deadline = time.monotonic() + BEGIN_SECONDS
    while not _has_begun(job):
        if live_driver(job.storage, job.run) is None:
            return
        if time.monotonic() > deadline:
            raise UsageError(
                f"{job.run.name} has a driver, process {driver.pid} on {driver.host}, which has not begun within "
                f"{BEGIN_SECONDS:.0f} s: does it reach its storage? Try again, or end that process."
            )
        time.sleep(POLL_SECONDS)


def _has_begun(job: Job) -> bool:
    """Whether the newest driver has written an event."""
    prefix = join(job.run.events, f"d{newest_driver(job.storage, job.run):05d}-")
    return any(info.uri.startswith(prefix) for info in job.storage.list(job.run.events))
