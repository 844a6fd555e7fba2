"""A spec -> a job of a Ray cluster that drives its run: checked and planned here first, then shipped.

What the cluster gets is `python -m orchestrator.cli run <name>.yaml` with the spec and, unless its image has them, the
three packages. The same spec again is the same run: refused while it runs, gone on with where it stopped or failed. The
number at the end of a submission id counts the submissions.
"""

from __future__ import annotations

import logging
import re
import socket
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jobspecs.data import Source
from jobspecs.errors import JobFailedError, NotFoundError, UsageError
from jobspecs.job import JobSpec
from jobspecs.load import dumps
from jobspecs.storage import S3
from orchestrator.absolute_uris import absolute_uris
from orchestrator.cluster import Entry, RayJobs
from orchestrator.evaluations import is_finished
from orchestrator.lease import SUBMISSION_VARIABLE, live_driver
from orchestrator.ledger import Ledger, State
from orchestrator.prepare import AnotherExperimentError, Prepared, prepare
from orchestrator.run_argument import run_argument
from orchestrator.scanning import Found
from workers.run import RunDirectory
from workers.run_inputs import load_spec
from workers.storage import ObjectInfo, Storage, join

logger = logging.getLogger(__name__)

PACKAGES = ("jobspecs", "workers", "orchestrator")
STOP_SECONDS = 300
"""Ray kills a job so long after it was asked to stop: time for a commit. Ray's own default is 3 s."""
STOP_VARIABLES = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
"""Environment variables of a job, by which Ray knows that."""
NAME_LETTERS = 63
"""Of a job, at most."""


@dataclass(frozen=True)
class Submitted:
    """What came of a submission: the JSON of `tandem submit -o json`."""

    name: str
    submission_id: str | None
    """None: the run is finished, and nothing was submitted."""
    run_directory: str
    spec_hash: str
    total_steps: int | None
    """None: shards have to be read first, which the cluster does."""
    resumed: bool
    """Whether the run was begun before."""
    cluster: str
    """URL of the dashboard."""


def submit(spec: JobSpec, jobs: RayJobs, *, installed: bool = False, new_run: bool = False) -> Submitted:
    """Submits `spec`, or goes on with its run. new_run: under a name that no run has yet.

    Raises UsageError: it is running already, or the run of its name is another experiment; and what `prepare` raises;
    JobFailedError: the cluster did not take it.
    """
    spec = absolute_uris(spec)
    storage = Storage(spec.storage.s3)
    entries = jobs.entries()
    if new_run:
        spec = spec.model_copy(update={"name": free_name(spec.name, spec.storage.root, storage, entries)})
    run = RunDirectory(join(spec.storage.root, spec.name))
    refuse_running(run, entries, storage, spec.storage.s3)
    prepared = _prepared(spec)
    ledger = Ledger(storage, run)
    resumed = ledger.plan() is not None

    def submitted(submission_id: str | None) -> Submitted:
        steps = None if prepared is None else prepared.fixed.total_steps
        return Submitted(spec.name, submission_id, run.uri, spec.experiment_hash(), steps, resumed, jobs.url)

    if prepared is not None and resumed and finished(prepared, ledger):
        return submitted(None)
    warn_of_root(spec.storage.root, jobs.url)
    submission_id = next_id(spec, (entry.submission_id for entry in entries))
    try:
        with tempfile.TemporaryDirectory(prefix="tandem-submit-") as folder:
            (Path(folder) / f"{spec.name}.yaml").write_text(dumps(spec))
            jobs.submit(
                submission_id,
                f"python -m orchestrator.cli run {spec.name}.yaml",
                runtime_env(submission_id, folder, installed=installed),
                metadata(spec, run),
            )
    except JobFailedError:
        refuse_running(run, jobs.entries(), storage, spec.storage.s3)  # somebody else was as quick
        raise
    return submitted(submission_id)


def next_id(spec: JobSpec, taken: Iterable[str]) -> str:
    """`<name>-<hash8>-<n>`, with the first number behind those that are `taken`."""
    stem = f"{spec.name}-{spec.experiment_hash()[:8]}"
    numbers = (re.fullmatch(re.escape(stem) + r"-(\d+)", other) for other in taken)
    return f"{stem}-{max((int(number[1]) for number in numbers if number), default=0) + 1}"


def metadata(spec: JobSpec, run: RunDirectory) -> dict[str, str]:
    """What the dashboard shows of the job, and what `tandem list` reads."""
    endpoint = spec.storage.s3.endpoint
    return {
        "name": spec.name,
        "job_name": spec.name,  # Ray's own key: the Jobs page has a column for it
        "spec_hash": spec.experiment_hash()[:16],
        "objective": spec.objective.kind,
        "run_directory": run.uri,
        "progress": "submitted",
        **({} if endpoint is None else {"s3_endpoint": endpoint}),
    }


def runtime_env(submission_id: str, folder: str, *, installed: bool) -> dict[str, Any]:
    """What Ray gives the driver and all that it starts. folder: with the spec, the driver's current one."""
    here = Path(__file__).parents[1]
    return {
        "working_dir": folder,
        **({} if installed else {"py_modules": [str(here / package) for package in PACKAGES]}),
        "env_vars": {SUBMISSION_VARIABLE: submission_id, **STOP_VARIABLES},
    }


def free_name(name: str, root: str, storage: Storage, entries: Iterable[Entry]) -> str:
    """`name` if no run below `root` has it, else the first of `<name>-2`, `<name>-3`, … that none has.

    entries: the cluster's. Those that are not over have their runs' names too, before there is anything of the runs.
    """
    submitted = {entry.run_directory for entry in entries if not entry.is_over}
    candidate, number = name, 1
    while (uri := join(root, candidate)) in submitted or storage.exists(RunDirectory(uri).plan):
        number += 1
        candidate = f"{name[: NAME_LETTERS - len(str(number)) - 1]}-{number}"
    return candidate


def warn_of_root(root: str, cluster: str) -> None:
    """Says where runs would lie in a folder of another machine, which may be one that all share."""
    host = urlsplit(cluster).hostname or ""
    if root.startswith("file://") and not _is_this_machine(host):
        logger.warning(
            "storage.root %s is a folder, and the cluster is on %s. Unless its nodes and this machine share that "
            "folder, the run is not seen here and is lost with its node: set storage.root to an s3:// URI.",
            root,
            host,
        )


def _is_this_machine(host: str) -> bool:
    """Whether an address of `host` is one that a server could have here: loopback, or of a network card."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as server:
            server.bind(address)
    except OSError:
        return False
    return True


def refuse_running(run: RunDirectory, entries: Iterable[Entry], storage: Storage, s3: S3) -> None:
    """Raises UsageError where the run is driven already: by a job of the cluster, of another one, or by a process.

    s3: how `storage` reaches S3, for the message.
    """
    running = [entry.submission_id for entry in entries if entry.run_directory == run.uri and not entry.is_over]
    if running:
        raise UsageError(
            f"{run.name} is running already, as job {running[0]}. Watch it with `tandem logs -f {running[0]}`, or stop "
            f"it with `tandem stop {running[0]}`; --new-run starts another run beside it."
        )
    driver = live_driver(storage, run)
    if driver is not None:
        who = f"job {driver.submission_id} of another cluster" if driver.submission_id else f"process {driver.pid}"
        raise UsageError(
            f"{run.name} is being run already, by {who} on {driver.host}. Wait for it, or stop it with `tandem stop "
            f"{run_argument(run.uri, s3)}`; --new-run starts another run beside it."
        )


def finished(prepared: Prepared, ledger: Ledger) -> bool:
    """Whether nothing is left to do."""
    return ledger.state(ledger.events()) is State.SUCCEEDED and is_finished(prepared, ledger)


def kept_spec(storage: Storage, run: RunDirectory) -> JobSpec:
    """The spec that a run was started with last. Raises UsageError: there is none."""
    try:
        return load_spec(storage, run)
    except NotFoundError as error:
        raise UsageError(
            f"{run.uri} holds no run to go on with: it was never started. Submit or run its spec."
        ) from error


class _UnreadError(Exception):
    """Shards would have to be read."""


def _prepared(spec: JobSpec) -> Prepared | None:
    """The checked and planned job; None where that takes reading tars, which the cluster is nearer to."""
    try:
        return prepare(spec, scanner=_read_nothing)
    except _UnreadError:
        return None
    except AnotherExperimentError as error:
        raise UsageError(f"{error} `tandem submit --new-run` finds a name for it.") from error


def _read_nothing(source: Source, shards: list[ObjectInfo]) -> Iterator[Found]:
    raise _UnreadError
