"""A run has one driver at a time, and one that was replaced can't disturb the newer one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobspecs.errors import AlreadyExistsError, UnreachableError, UsageError
from jobspecs.storage import S3
from orchestrator import lease as leases
from orchestrator.lease import (
    RAY_VARIABLE,
    STALE_SECONDS,
    SUBMISSION_VARIABLE,
    Driver,
    Lease,
    TakenOverError,
    live_driver,
    this_driver,
    this_submission,
)
from orchestrator.ledger import Ledger
from tests.waiting import until
from workers.run import RunDirectory
from workers.storage import ObjectInfo, Storage


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(f"file://{tmp_path}/job")


STORAGE = Storage()


def drive(run: RunDirectory, driver: Driver, number: int = 1) -> None:
    STORAGE.write(run.driver(number), json.dumps(asdict(driver)).encode())


def me(seconds_ago: float = 0.0) -> Driver:
    return replace(this_driver(), time=time.time() - seconds_ago)


def dead() -> Driver:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return replace(this_driver(), pid=process.pid)


GONE: dict[str, Callable[[], Driver]] = {
    "dead": dead,
    # A driver of this process's number, as in a container that was restarted.
    "born again": lambda: replace(this_driver(), created=1.0),
    "ended": lambda: replace(this_driver(), ended=True),
    "ended elsewhere": lambda: replace(this_driver(), machine="elsewhere", ended=True),
}


@pytest.mark.parametrize(
    ("ray_tells", "expected"),
    [
        ('{"metadata": {"job_submission_id": "digits-x7k2p", "run_directory": "s3://b/runs/digits"}}', "digits-x7k2p"),
        ('{"metadata": {"job_submission_id": "raysubmit_1"}}', None),  # a script, which may do more than this run
        ('{"metadata": {"run_directory": "s3://b/runs/digits"}}', None),
        ('{"metadata": null}', None),
        ("[]", None),
        ("?", None),
        (None, None),
    ],
)
def test_which_job_of_a_cluster_a_driver_is(
    ray_tells: str | None, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SUBMISSION_VARIABLE, raising=False)
    monkeypatch.delenv(RAY_VARIABLE, raising=False)
    if ray_tells is not None:
        monkeypatch.setenv(RAY_VARIABLE, ray_tells)
    assert this_submission() == this_driver().submission_id == expected
    monkeypatch.setenv(SUBMISSION_VARIABLE, "digits-1a2b3c4d-1")
    assert this_driver().submission_id == "digits-1a2b3c4d-1", "what `tandem submit` said comes first"


def test_ray_names_the_variable_and_the_id_so() -> None:
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
    from ray.dashboard.modules.job.common import JOB_ID_METADATA_KEY

    assert (RAY_JOB_CONFIG_JSON_ENV_VAR, JOB_ID_METADATA_KEY) == (RAY_VARIABLE, "job_submission_id")


@pytest.mark.parametrize("case", GONE)
def test_a_run_whose_driver_is_gone_is_nobodys_and_may_be_driven(run: RunDirectory, case: str) -> None:
    drive(run, GONE[case]())
    assert live_driver(STORAGE, run) is None
    lease = Lease(STORAGE, run)
    lease.take()
    assert lease.number == 2
    now = live_driver(STORAGE, run)
    assert now is not None
    assert now.token == lease.token
    lease.give_back()
    assert live_driver(STORAGE, run) is None
    # What was is kept: the next number has to be known.
    assert [info.uri for info in STORAGE.list(run.drivers)] == [run.driver(1), run.driver(2)]


@pytest.mark.parametrize("silent_seconds", [0.0, STALE_SECONDS + 1])
def test_a_run_has_one_driver(run: RunDirectory, silent_seconds: float) -> None:
    """A process that is there may be silent for the storage's sake, and go on."""
    drive(run, me(silent_seconds))
    assert live_driver(STORAGE, run) is not None
    with pytest.raises(UsageError, match=r"job is being run already, by process \d+ on .*give this job another name"):
        Lease(STORAGE, run).take()


def test_the_command_that_stops_the_other_driver_reaches_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "newest_driver", lambda *_: 1)
    monkeypatch.setattr(leases, "_content", lambda *_: json.dumps(asdict(me())).encode())
    with pytest.raises(UsageError, match=r"`tandem stop s3://b/runs/job --endpoint http://minio:9000`, or give"):
        Lease(STORAGE, RunDirectory("s3://b/runs/job"), S3(endpoint="http://minio:9000")).take()


def test_a_driver_on_another_machine_seems_dead_when_it_is_silent(run: RunDirectory) -> None:
    """Also where that has our name: containers may."""
    drive(run, replace(me(STALE_SECONDS + 1), machine="another"))
    assert live_driver(STORAGE, run) is None
    drive(run, replace(me(), machine="another", pid=0))
    assert live_driver(STORAGE, run) is not None


CLOCKS = {"behind": 3600.0, "ahead": -3600.0}
"""How far the clock of another host is behind ours, in seconds."""


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("does", ["beats", "ends", "nothing"])
def test_a_driver_on_another_host_is_alive_if_it_beats_while_we_look(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, clock: str, does: str
) -> None:
    other = replace(me(CLOCKS[clock]), host="elsewhere", machine="another")
    drive(run, other)
    passed, told = [0.0], list[str]()

    def sleep(seconds: float) -> None:
        passed[0] += seconds
        if does != "nothing" and passed[0] > 5:
            drive(run, replace(other, time=other.time + 5, ended=does == "ends"))

    clock_here = SimpleNamespace(sleep=sleep, monotonic=lambda: passed[0], time=time.time)
    monkeypatch.setattr(leases, "time", clock_here)
    lease = Lease(STORAGE, run)
    if does == "beats":
        with pytest.raises(UsageError, match=r"job is being run already, by process \d+ on elsewhere"):
            lease.take(told.append)
    else:
        lease.take(told.append)
        lease.give_back()
    assert (passed[0] >= STALE_SECONDS) == (does == "nothing")
    assert told == [f"job was driven by process {other.pid} on elsewhere: waiting up to 30 s for a sign of life of it"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"host": 1, "time": null}'])
def test_a_damaged_record_is_nobodys(run: RunDirectory, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Neither the start nor the heartbeat fails of it: the next beat writes it anew."""
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.01)
    STORAGE.write(run.driver(1), content)
    assert live_driver(STORAGE, run) is None
    lease = Lease(STORAGE, run)
    lease.take()
    STORAGE.write(run.driver(2), content)
    until(lambda: live_driver(STORAGE, run), "its driver")
    assert not lease.lost
    lease.give_back()


# --- several at once ----------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [None, "dead"])
def test_of_drivers_that_come_at_once_exactly_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    """Three real ones, over and over: a moment after the start, one of them is alive and has the run."""
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.001)
    for repetition in range(25):
        run = RunDirectory(f"file://{tmp_path}/{repetition}")
        if before is not None:
            drive(run, replace(this_driver(), created=1.0))
        at_once = threading.Barrier(3)
        drivers = [Lease(STORAGE, run) for _ in range(3)]
        won: list[Lease] = []
        refused: list[str] = []

        def start(
            driver: Lease, at_once: threading.Barrier = at_once, won: list[Lease] = won, refused: list[str] = refused
        ) -> None:
            at_once.wait(60)
            try:
                driver.take()
                won.append(driver)
            except UsageError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=start, args=(driver,)) for driver in drivers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert len(refused) == 2
        assert all("is being run already, by process" in message for message in refused)
        there = live_driver(STORAGE, run)
        assert there is not None
        assert there.token == won[0].token
        assert not won[0].lost
        won[0].give_back()


def test_a_write_whose_answer_got_lost_is_recognised(run: RunDirectory) -> None:
    class Forgetful(Storage):
        def write(self, uri: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:  # type: ignore[override]
            written = super().write(uri, data, if_absent=if_absent)
            if if_absent:
                raise AlreadyExistsError(f"cannot create {uri}")
            return written

    lease = Lease(Forgetful(), run)
    lease.take()
    assert lease.number == 1
    lease.give_back()


def test_a_driver_that_stalled_and_was_replaced_notices_and_leaves_the_other_alone(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stalls in the middle of a heartbeat, which goes through when another one has the run."""
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.01)
    stalls, goes_on = threading.Event(), threading.Event()

    class Stalling(Storage):
        def write(self, uri: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:  # type: ignore[override]
            if not if_absent:
                stalls.set()
                assert goes_on.wait(60)
            return super().write(uri, data, if_absent=if_absent)

    old, new = Lease(Stalling(), run), Lease(STORAGE, run)
    old._driver = replace(old._driver, machine="another")
    old.take()
    assert stalls.wait(60)
    monkeypatch.setattr(leases, "STALE_SECONDS", 0.0)
    new.take()
    monkeypatch.undo()
    goes_on.set()
    until(lambda: old.lost, "the loss")
    old.give_back()
    there = live_driver(STORAGE, run)
    assert there is not None
    assert (there.token, there.ended, new.lost) == (new.token, False, False)
    new.check()
    with pytest.raises(TakenOverError):
        old.check()
    new.give_back()


def test_the_end_of_a_driver_does_not_wait_for_a_storage_that_does_not_answer(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "GIVE_BACK_SECONDS", 0.1)
    answers = threading.Event()

    class Silent(Storage):
        def write(self, uri: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:  # type: ignore[override]
            if not if_absent:
                assert answers.wait(60)
            return super().write(uri, data, if_absent=if_absent)

    lease = Lease(Silent(), run)
    lease.take()
    lease.give_back()
    assert live_driver(STORAGE, run) is not None
    answers.set()
    until(lambda: live_driver(STORAGE, run) is None, "its end")


def test_a_look_at_the_lease_needs_no_heartbeat(run: RunDirectory) -> None:
    lease = Lease(STORAGE, run)
    lease.take()
    lease.check()
    drive(run, me(), number=2)
    with pytest.raises(TakenOverError, match="another process has taken over this run"):
        lease.check()
    assert lease.lost
    lease.give_back()


def test_a_storage_that_is_away_costs_heartbeats_and_not_the_run(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.001)
    lease = Lease(STORAGE, run)
    lease.take()
    failed = []

    def away(storage: Storage, prefix: str, **more: bool) -> list[ObjectInfo]:
        failed.append(prefix)
        raise UnreachableError("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(Storage, "list", away)
        until(lambda: len(failed) > 3, "refusals")
    before = STORAGE.read(run.driver(1))
    until(lambda: STORAGE.read(run.driver(1)) != before, "a beat")
    assert not lease.lost
    lease.give_back()


@pytest.mark.parametrize("anew", [False, True])
def test_a_run_directory_that_was_removed_is_no_longer_driven(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anew: bool
) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT_SECONDS", 0.01)
    lease = Lease(STORAGE, run)
    lease.take()
    other = me()
    while not lease.lost:
        (tmp_path / "job/drivers/00001.json").unlink(missing_ok=True)
        if anew:
            drive(run, other)
        time.sleep(0.02)
    lease.give_back()
    if anew:
        assert live_driver(STORAGE, run) == other


def test_the_state_of_a_run_follows_its_driver(run: RunDirectory) -> None:
    ledger = Ledger(STORAGE, run)
    ledger.event("run_started", "started")
    lease = Lease(STORAGE, run)
    lease.take()
    assert ledger.state(ledger.events()).label == "running"
    lease.give_back()
    assert ledger.state(ledger.events()).label == "lost"
