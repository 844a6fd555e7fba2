"""Who drives a run: one process at a time. Drivers are numbered, and the one with the highest number has the run.

    <run directory>/drivers/00001.json, 00002.json, …     written by the driver of that number alone

A driver takes the run by writing the next number's file, on condition that it is not there: of several that try at
once, one gets it. From then on it rewrites that file every few seconds, as a sign of life, and marks it as ended at
last. So a driver that was thought dead and wakes up can't overwrite the newer one's file; it finds out that there is
one, and that the run is not its own any more.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from jobspecs.errors import AlreadyExistsError, JobFailedError, NotFoundError, StorageError, UsageError
from jobspecs.storage import S3
from orchestrator.run_argument import run_argument
from orchestrator.within import within
from workers.repeating import Repeating
from workers.run import RunDirectory
from workers.storage import Storage
from workers.train.fence import newest_driver

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
"""A driver on another machine that has not beaten for this long is taken for dead."""
GIVE_BACK_SECONDS = 10.0
"""How long the end of a driver waits for a storage that does not answer."""
POLL_SECONDS = 1.0
SUBMISSION_VARIABLE = "TANDEM_SUBMISSION_ID"
"""The environment variable that tells a driver which job of a Ray cluster it is, where `tandem submit` started it."""
RAY_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""The one in which Ray tells each of its jobs what it knows of it."""
_AWS = S3()


@dataclass(frozen=True)
class Driver:
    """The process that drives a run, as its file holds it."""

    host: str
    """Its name, for people: containers may share one."""
    machine: str
    """Where `pid` says something: see `this_machine`."""
    pid: int
    created: float
    """Unix time at which the process began: process numbers come again, in containers at once."""
    token: str
    """Tells this driver's file from any other's."""
    time: float
    """Unix time of its last heartbeat."""
    ended: bool = False
    """Whether it has given the run back."""
    submission_id: str | None = None
    """The job of a Ray cluster that it is, if it is one."""


def this_machine() -> str:
    """The same for processes that see each other's numbers: the boot of the machine, and the container's."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():  # not Linux
        return socket.gethostname()
    return f"{boot.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"


def this_submission() -> str | None:
    """The job of a Ray cluster that this process is, if it is one of Tandem's. KubeRay gives a RayJob an id of its own,
    which Ray alone tells. A job of another kind may run Tandem and go on: it is not asked to stop for a run."""
    if given := os.environ.get(SUBMISSION_VARIABLE):
        return given
    # Whatever a Ray that does it otherwise tells: a driver is none the worse for it.
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        about = json.loads(os.environ[RAY_VARIABLE])["metadata"]
        return str(about["job_submission_id"]) if "run_directory" in about else None
    return None


def this_driver() -> Driver:
    """A driver in this process."""
    pid = os.getpid()
    created = psutil.Process(pid).create_time()
    return Driver(
        host=socket.gethostname(),
        machine=this_machine(),
        pid=pid,
        created=created,
        token=secrets.token_hex(8),
        time=time.time(),
        submission_id=this_submission(),
    )


def live_driver(storage: Storage, run: RunDirectory) -> Driver | None:
    """The driver that seems alive, or None."""
    driver = _parse(_content(storage, run, newest_driver(storage, run)))
    return driver if driver is not None and _seems_alive(driver) else None


def _content(storage: Storage, run: RunDirectory, number: int) -> bytes | None:
    try:
        return storage.read(run.driver(number))
    except NotFoundError:
        return None


def _parse(content: bytes | None) -> Driver | None:
    """The driver of a driver's file; what can't be read as one is nobody's."""
    try:
        there = json.loads(content or b"")
        return Driver(
            host=str(there["host"]),
            machine=str(there["machine"]),
            pid=int(there["pid"]),
            created=float(there["created"]),
            token=str(there["token"]),
            time=float(there["time"]),
            ended=bool(there["ended"]),
            submission_id=there.get("submission_id"),  # older ones have none
        )
    except (ValueError, TypeError, KeyError):
        return None


def _seems_alive(driver: Driver) -> bool:
    if driver.ended:
        return False
    if driver.machine != this_machine():
        return time.time() - driver.time <= STALE_SECONDS
    # Silent or not: it may wait for the storage, or be stopped, and go on.
    try:
        process = psutil.Process(driver.pid)
        return process.create_time() == driver.created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class TakenOverError(JobFailedError):
    """Another driver has the run: this one ends, and writes nothing more into it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"{self.name}: another process has taken over this run, and goes on with it."


class Lease:
    """Says that this process drives the run, every few seconds, until it is given back."""

    def __init__(self, storage: Storage, run: RunDirectory, s3: S3 = _AWS) -> None:
        """s3: how `storage` reaches S3, for messages."""
        self._storage = storage
        self._run = run
        self._s3 = s3
        self._driver = this_driver()
        self._lost = threading.Event()
        self._beating = Repeating("heartbeat", HEARTBEAT_SECONDS, self._beat)
        self.number = 0
        """Of this driver, from 1; 0 as long as it has not taken the run."""

    @property
    def token(self) -> str:
        """Tells this driver from any other."""
        return self._driver.token

    @property
    def submission_id(self) -> str | None:
        """The job of a Ray cluster that this driver is, if it is one."""
        return self._driver.submission_id

    @property
    def lost(self) -> bool:
        """Whether another driver has taken the run, because this one was silent for too long. As of the last beat."""
        return self._lost.is_set()

    def check(self) -> None:
        """Looks afresh. Raises TakenOverError; StorageError."""
        if not self.lost and not self._is_ours():
            self._lost.set()
        if self.lost:
            raise TakenOverError(self._run.name)

    def take(self, tell: Callable[[str], None] = lambda message: None) -> None:
        """Takes the run. `tell` hears of a wait for a driver on another host, of at most STALE_SECONDS.

        Raises UsageError: another driver is alive; StorageError: the directory can't be read or written.
        """
        while not self.number:
            newest = newest_driver(self._storage, self._run)
            if newest and (other := self._alive(newest, tell)) is not None:
                job = f" (job {other.submission_id})" if other.submission_id else ""
                raise UsageError(
                    f"{self._run.name} is being run already, by process {other.pid} on {other.host}{job}. Wait for "
                    f"it, stop it with `tandem stop {run_argument(self._run.uri, self._s3)}`, or give this job another "
                    "name."
                )
            # Where another one was as quick, the next look finds it.
            if self._claim(newest + 1):
                self.number = newest + 1
        self._beating.start()

    def give_back(self) -> None:
        """The run has no driver any more. Another driver's file is left alone."""
        self._beating.stop()
        # A file that can't be written now is stale in half a minute.
        within(GIVE_BACK_SECONDS, self._say_that_it_ended)

    def _say_that_it_ended(self) -> None:
        self._beating.join()
        with contextlib.suppress(StorageError):
            if not self.lost:
                self._storage.write(self._run.driver(self.number), self._record(ended=True))

    def _alive(self, number: int, tell: Callable[[str], None]) -> Driver | None:
        """The driver of that number, if it is alive. One on another machine is alive if it beats while we look: its
        clock may be another than ours."""
        content = _content(self._storage, self._run, number)
        driver = _parse(content)
        if driver is None or driver.ended:
            return None
        if driver.machine == self._driver.machine:
            return driver if _seems_alive(driver) else None
        tell(
            f"{self._run.name} was driven by process {driver.pid} on {driver.host}: waiting up to "
            f"{STALE_SECONDS:.0f} s for a sign of life of it"
        )
        deadline = time.monotonic() + STALE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            now = _content(self._storage, self._run, number)
            if now != content:
                driver = _parse(now)
                return None if driver is None or driver.ended else driver
        return None

    def _claim(self, number: int) -> bool:
        """Whether the number is ours now."""
        record = self._record()
        try:
            self._storage.write(self._run.driver(number), record, if_absent=True)
        except AlreadyExistsError:
            # Or it is our own write, whose answer got lost.
            return _content(self._storage, self._run, number) == record
        return True

    def _record(self, *, ended: bool = False) -> bytes:
        return json.dumps(asdict(replace(self._driver, time=time.time(), ended=ended))).encode()

    def _beat(self) -> bool:
        # A store that does not answer: the next beat tries again; silence is what it is for.
        with contextlib.suppress(StorageError):
            if self._is_ours():
                self._storage.write(self._run.driver(self.number), self._record())
            else:
                self._lost.set()
        return self.lost

    def _is_ours(self) -> bool:
        """Whether the newest driver is this one. Somebody may also have removed the run directory, and begun it anew: a
        lower number then, or another's file. A damaged one is nobody's."""
        if newest_driver(self._storage, self._run) != self.number:
            return False
        there = _parse(_content(self._storage, self._run, self.number))
        return there is None or there.token == self.token
