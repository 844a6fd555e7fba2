"""Which job is meant, and which there are: those of a cluster, and runs below a folder or prefix.

A job is named by its run directory, by its name, or by the id of its submission. A name is looked for on the cluster
where one is given, else in the current folder and below `root`. Whatever the cluster has lost, the run directory tells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from jobspecs.errors import TandemError, UsageError
from jobspecs.storage import S3
from orchestrator.cluster import Entry, RayJobs
from orchestrator.ledger import Ledger, Status
from orchestrator.named_run import is_path, named_run
from workers.run import RunDirectory
from workers.storage import Storage, absolute, join

Connect = Callable[[], RayJobs | None]
"""The cluster that the user names, if one is named. Raises UsageError."""

_STATES = {
    "PENDING": "pending",
    "RUNNING": "running",
    "STOPPED": "interrupted",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
}
"""What a run's state is called, by Ray's status of its job."""


@dataclass(frozen=True)
class Job:
    """A job that was found."""

    run: RunDirectory
    storage: Storage
    entry: Entry | None
    """Its newest submission; None where it was not looked for on a cluster."""
    jobs: RayJobs | None
    """The cluster that it was looked for on."""

    @property
    def ledger(self) -> Ledger:
        """Its record."""
        return Ledger(self.storage, self.run)

    def status(self) -> Status:
        """How it is doing. Raises UsageError: it has not begun, and what Ray says of it."""
        try:
            return self.ledger.status()
        except UsageError as error:
            if self.entry is None:
                raise
            entry = self.entry
            raise UsageError(
                f"job {entry.submission_id} has not begun its run yet: it is {_state(entry)} ({entry.message}). "
                f"`tandem logs {entry.submission_id}` shows what it says."
            ) from error


@dataclass(frozen=True)
class Listed:
    """A job in a list: the JSON of `tandem list -o json`."""

    name: str
    state: str
    """As in `tandem status`, or `pending`."""
    progress: str
    submission_id: str | None
    """None for a run of this machine."""
    objective: str
    spec_hash: str
    """Its first 16 digits."""
    run_directory: str
    started: float
    """Unix time."""


def find(argument: str, root: str, s3: S3 | None, connect: Connect) -> Job:
    """The job that `argument` names. s3: how S3 is reached, where the user says it.

    Raises UsageError: the cluster has none of that name, or several runs, or can't be asked.
    """
    jobs = None if is_path(argument) else connect()
    if jobs is None:
        return Job(named_run(argument, root), Storage(s3 or S3()), None, None)
    entry = _entry(argument, root, jobs)
    return Job(RunDirectory(entry.run_directory), Storage(s3 or S3(endpoint=entry.s3_endpoint)), entry, jobs)


def _entry(argument: str, root: str, jobs: RayJobs) -> Entry:
    """The newest submission of the run that is meant. Raises UsageError."""
    entries = jobs.entries()
    named = [entry for entry in entries if entry.submission_id == argument]
    named = named or [entry for entry in entries if entry.name == argument]
    if not named:
        raise UsageError(
            f"the cluster at {jobs.url} has no job {argument!r}. `tandem list` shows those that it has; a run that it "
            f"has lost is named by its run directory, such as {join(root, argument)}"
        )
    newest: dict[str, Entry] = {}
    for entry in named:
        newest.setdefault(entry.run_directory, entry)
    if len(newest) > 1:
        there = ", ".join(f"{entry.submission_id} ({uri})" for uri, entry in newest.items())
        raise UsageError(
            f"the cluster at {jobs.url} has several runs of the name {argument!r}: {there}. Say which by its "
            "submission id or its run directory."
        )
    return named[0]


def listed(jobs: RayJobs | None, root: str, s3: S3 | None) -> list[Listed]:
    """The newest submission of each run on the cluster, and the runs below `root`; the newest first.

    Raises UsageError, StorageError: what is asked does not answer.
    """
    newest: dict[str, Entry] = {}
    for entry in jobs.entries() if jobs is not None else ():
        newest.setdefault(entry.run_directory, entry)
    there = {run.run_directory: run for run in _runs(Storage(s3 or S3()), absolute(root), newest)}
    found = [*there.values(), *(_of_entry(entry) for uri, entry in newest.items() if uri not in there)]
    return sorted(found, key=lambda job: job.started, reverse=True)


def _runs(storage: Storage, root: str, entries: dict[str, Entry]) -> Iterator[Listed]:
    plan = re.compile(re.escape(root) + r"/([^/]+)/plan\.json")
    for info in storage.list(root):
        if plan.fullmatch(info.uri):
            ledger = Ledger(storage, RunDirectory(info.uri.rpartition("/")[0]))
            entry = entries.get(ledger.run.uri)
            try:
                status = ledger.status()
                if entry is not None and not entry.is_over and entry.submission_id != status.submission_id:
                    continue  # its newest submission has not begun yet
                yield _of_status(status, ledger, entry)
            except TandemError as error:
                yield Listed(ledger.run.name, "unknown", str(error), None, "", "", ledger.run.uri, 0.0)


def _state(entry: Entry) -> str:
    return _STATES.get(entry.status, entry.status.lower())


def _of_entry(entry: Entry) -> Listed:
    return Listed(
        name=entry.name,
        state=_state(entry),
        progress=entry.progress,
        submission_id=entry.submission_id,
        objective=entry.objective,
        spec_hash=entry.spec_hash,
        run_directory=entry.run_directory,
        started=entry.started,
    )


def _of_status(status: Status, ledger: Ledger, entry: Entry | None) -> Listed:
    from orchestrator.submission import kept_spec

    events = ledger.events()
    started = [event["time"] for event in events if event["event"] == "run_started"]
    waits = bool(events) and events[-1]["event"] == "waiting_for_workers"
    plan = ledger.plan()
    return Listed(
        name=status.name,
        state=status.state,
        progress=status.message if waits else progress(status),
        submission_id=status.submission_id if entry is None else entry.submission_id,
        objective=kept_spec(ledger.storage, ledger.run).objective.kind,
        spec_hash="" if plan is None else plan.spec_hash[:16],
        run_directory=status.run_directory,
        started=max(started, default=0.0),
    )


def progress(status: Status) -> str:
    """How far a run has come, in a few words."""
    loss = "" if status.loss is None else f", loss {status.loss:.4f}"
    return f"step {status.step:,} of {status.total_steps:,}{loss}"
