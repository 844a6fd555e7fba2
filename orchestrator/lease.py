"""Who drives a run: one process at a time, known by a heartbeat in the run directory."""

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

import psutil

from jobspecs.errors import AlreadyExistsError, JobFailedError, NotFoundError, StorageError, UsageError
from workers.run import RunDirectory
from workers.storage import Storage

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
"""A driver that has not beaten for this long is taken for dead."""
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Driver:
    """The process that drives a run, as driver.json holds it."""

    host: str
    pid: int
    created: float
    """Unix time at which the process began: process numbers come again, in containers at once."""
    token: str
    """Tells this driver's file from any other's."""
    time: float
    """Unix time of its last heartbeat."""


def this_driver() -> Driver:
    """A driver in this process."""
    pid = os.getpid()
    return Driver(socket.gethostname(), pid, psutil.Process(pid).create_time(), secrets.token_hex(8), time.time())


def live_driver(storage: Storage, run: RunDirectory) -> Driver | None:
    """The driver that seems alive, or None."""
    driver = _parse(_content(storage, run))
    if driver is None or time.time() - driver.time > STALE_SECONDS:
        return None
    if driver.host == socket.gethostname() and not _is_alive(driver):
        return None
    return driver


def _content(storage: Storage, run: RunDirectory) -> bytes | None:
    try:
        return storage.read(run.driver)
    except NotFoundError:
        return None


def _parse(content: bytes | None) -> Driver | None:
    """The driver of a driver.json; what can't be read as one is nobody's."""
    try:
        there = json.loads(content or b"")
        return Driver(
            str(there["host"]), int(there["pid"]), float(there["created"]), str(there["token"]), float(there["time"])
        )
    except (ValueError, TypeError, KeyError):
        return None


def _is_alive(driver: Driver) -> bool:
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

    def __init__(self, storage: Storage, run: RunDirectory) -> None:
        self._storage = storage
        self._run = run
        self._driver = this_driver()
        self._closing = threading.Event()
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    @property
    def token(self) -> str:
        """Tells this driver from any other."""
        return self._driver.token

    @property
    def lost(self) -> bool:
        """Whether another driver has taken the run, because this one was silent for too long."""
        return self._lost.is_set()

    def take(self, tell: Callable[[str], None] = lambda message: None) -> None:
        """Takes the run. `tell` hears of a wait for a driver on another host, of at most STALE_SECONDS.

        Raises UsageError: another driver is alive; StorageError: the directory can't be read or written.
        """
        other = self._other(tell)
        if other is None:
            self._storage.delete(self._run.driver)
            try:
                self._storage.write(self._run.driver, self._beat(), if_absent=True)
            except AlreadyExistsError:
                # Another one was as quick; or it is our own write, whose answer got lost.
                there = _parse(_content(self._storage, self._run))
                other = None if there and there.token == self._driver.token else there
        if other is not None:
            raise UsageError(
                f"{self._run.name} is being run already, by process {other.pid} on {other.host}. Wait for "
                "it, stop it with Ctrl-C, or give this job another name."
            )
        self._thread.start()

    def give_back(self) -> None:
        """The run has no driver any more. Does nothing where another has taken it."""
        self._closing.set()
        self._thread.join()
        # A file that can't be deleted now is stale in half a minute.
        with contextlib.suppress(StorageError):
            if not self._is_anothers():
                self._storage.delete(self._run.driver)

    def _other(self, tell: Callable[[str], None]) -> Driver | None:
        """The driver that has the run and is alive. One on another host is alive if it beats while we look: its clock
        may be another than ours."""
        content = _content(self._storage, self._run)
        driver = _parse(content)
        if driver is None or driver.host == self._driver.host:
            return live_driver(self._storage, self._run)
        tell(
            f"{self._run.name} was driven by process {driver.pid} on {driver.host}: waiting up to "
            f"{STALE_SECONDS:.0f} s for a sign of life of it"
        )
        deadline = time.monotonic() + STALE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            now = _content(self._storage, self._run)
            if now != content:
                return _parse(now)
        return None

    def _beat(self) -> bytes:
        return json.dumps(asdict(replace(self._driver, time=time.time()))).encode()

    def _beat_on(self) -> None:
        while not self._closing.wait(HEARTBEAT_SECONDS):
            # A store that does not answer: the next beat tries again; silence is what it is for.
            with contextlib.suppress(StorageError):
                if self._is_anothers():
                    self._lost.set()
                    return
                self._storage.write(self._run.driver, self._beat())

    def _is_anothers(self) -> bool:
        """Also without a file: another deletes ours before it writes its own. A damaged one is nobody's."""
        content = _content(self._storage, self._run)
        there = _parse(content)
        return content is None or (there is not None and there.token != self._driver.token)
