"""Status and metrics follow from what was recorded; a run has one driver at a time."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobspecs.errors import UsageError
from jobspecs.storage import S3
from orchestrator.lease import STALE_SECONDS, Driver, Lease, live_driver, this_driver
from orchestrator.ledger import Ledger
from workers.data.order import Layout
from workers.run import PartsWriter, RunDirectory, RunPlan
from workers.storage import Storage


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """The record of a run that was planned and not started."""
    storage, run = Storage(S3()), RunDirectory(f"file://{tmp_path}/job")
    plan = RunPlan(Layout(0, 8, 2, 16, (8,)), 10, "spec", "index")
    storage.write(run.plan, plan.to_json())
    return Ledger(storage, run)


def record(ledger: Ledger, attempt: int, *steps: int) -> None:
    writer = PartsWriter(ledger.storage, ledger.run.metrics, f"a{attempt:05d}-")
    for step in steps:
        writer.append({"step": step, "attempt": attempt, "loss": step / 10})
    writer.flush()


def drive(ledger: Ledger, driver: Driver) -> None:
    ledger.storage.write(ledger.run.driver, json.dumps(asdict(driver)).encode())


def me(seconds_ago: float = 0.0) -> Driver:
    return replace(this_driver(), time=time.time() - seconds_ago)


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_metrics_have_each_step_once_from_the_newest_attempt(ledger: Ledger) -> None:
    record(ledger, 1, 1, 2, 3, 4)
    record(ledger, 2, 3, 4, 5)
    metrics = list(ledger.metrics())
    assert [(m["step"], m["attempt"]) for m in metrics] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]
    assert ledger.last_metrics() == metrics[-1]


def test_many_attempts_keep_their_order(ledger: Ledger) -> None:
    record(ledger, 999, 1)
    record(ledger, 1000, 1, 2)
    assert [m["attempt"] for m in ledger.metrics()] == [1000, 1000]


def test_status_of_a_run_that_has_not_begun(ledger: Ledger) -> None:
    status = ledger.status()
    assert (status.state, status.attempt, status.step, status.total_steps) == ("lost", 0, 0, 10)
    assert status.latest_checkpoint is None


def test_status_of_a_run_under_way(ledger: Ledger) -> None:
    drive(ledger, me())
    ledger.event("run_started", "started")
    ledger.event("attempt_started", "attempt 1", attempt=1, step=0, world_size=2)
    record(ledger, 1, 1, 2, 3)
    ledger.event("attempt_failed", "it broke", attempt=1, step=3, kind="bug", cause="rank 0: OSError", details="…")
    ledger.event("attempt_started", "attempt 2", attempt=2, step=0, world_size=3)
    ledger.storage.write(f"{ledger.run.checkpoint(2)}/manifest.json", b"{}")
    status = ledger.status()
    assert (status.state, status.attempt, status.step, status.world_size) == ("running", 2, 2, 3)
    assert status.failures == [{"attempt": 1, "step": 3, "kind": "bug", "cause": "rank 0: OSError"}]
    assert status.latest_checkpoint == ledger.run.checkpoint(2)
    assert status.message == "attempt 2"


@pytest.mark.parametrize(
    ("event", "state"),
    [
        ("training_finished", "evaluating"),
        ("run_interrupted", "interrupted"),
        ("run_failed", "failed"),
        ("run_succeeded", "succeeded"),
    ],
)
def test_states(ledger: Ledger, event: str, state: str) -> None:
    drive(ledger, me())
    ledger.event("run_started", "started")
    ledger.event(event, "…")
    assert ledger.status().state == state


def test_events_of_several_drivers_stand_in_order(ledger: Ledger) -> None:
    ledger.event("run_started", "one")
    Ledger(ledger.storage, ledger.run).event("run_started", "two")
    ledger.event("run_failed", "three")
    # A second driver begins a part of its own; the first one's lines stay together.
    assert [event["message"] for event in ledger.events()] == ["one", "three", "two"]


def dead() -> Driver:
    return replace(this_driver(), pid=dead_pid())


def born_again() -> Driver:
    """A driver of this process's number, as in a container that was restarted."""
    return replace(this_driver(), created=1.0)


GONE = {"dead": dead, "stale": lambda: me(STALE_SECONDS + 1), "born again": born_again}


@pytest.mark.parametrize("case", GONE)
def test_a_run_whose_driver_is_gone_is_lost_and_may_be_driven(ledger: Ledger, case: str) -> None:
    drive(ledger, GONE[case]())
    ledger.event("run_started", "started")
    assert ledger.status().state == "lost"
    lease = Lease(ledger.storage, ledger.run)
    lease.take()
    assert ledger.status().state == "running"
    lease.give_back()
    assert live_driver(ledger.storage, ledger.run) is None


def test_a_run_has_one_driver(ledger: Ledger) -> None:
    drive(ledger, me())
    with pytest.raises(UsageError, match="job is being run already, by process"):
        Lease(ledger.storage, ledger.run).take()


CLOCKS = {"behind": 3600.0, "ahead": -3600.0}
"""How far the clock of another host is behind ours, in seconds."""


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("alive", [True, False])
def test_a_driver_on_another_host_is_alive_if_it_beats_while_we_look(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, clock: str, alive: bool
) -> None:
    other = replace(me(CLOCKS[clock]), host="elsewhere")
    drive(ledger, other)
    passed, told = [0.0], list[str]()

    def sleep(seconds: float) -> None:
        passed[0] += seconds
        if alive and passed[0] > 5:
            drive(ledger, replace(other, time=other.time + 5))

    clock_here = SimpleNamespace(sleep=sleep, monotonic=lambda: passed[0], time=time.time)
    monkeypatch.setattr("orchestrator.lease.time", clock_here)
    lease = Lease(ledger.storage, ledger.run)
    if alive:
        with pytest.raises(UsageError, match=r"job is being run already, by process \d+ on elsewhere"):
            lease.take(told.append)
        assert passed[0] < STALE_SECONDS
    else:
        lease.take(told.append)
        assert passed[0] >= STALE_SECONDS
        lease.give_back()
    assert told == [f"job was driven by process {other.pid} on elsewhere: waiting up to 30 s for a sign of life of it"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"host": 1, "time": null}'])
def test_a_damaged_record_of_the_driver_is_nobodys(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """Neither the start nor the heartbeat fails of it: the next beat writes it anew."""
    monkeypatch.setattr("orchestrator.lease.HEARTBEAT_SECONDS", 0.01)
    ledger.storage.write(ledger.run.driver, content)
    assert ledger.status().state == "lost"
    lease = Lease(ledger.storage, ledger.run)
    lease.take()
    ledger.storage.write(ledger.run.driver, content)
    deadline = time.monotonic() + 10
    while live_driver(ledger.storage, ledger.run) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert live_driver(ledger.storage, ledger.run) is not None
    assert not lease.lost
    lease.give_back()
    assert not ledger.storage.exists(ledger.run.driver)


def test_of_drivers_that_come_at_once_one_wins(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have looked before either writes."""
    first, second = Lease(ledger.storage, ledger.run), Lease(ledger.storage, ledger.run)
    monkeypatch.setattr("orchestrator.lease.live_driver", lambda storage, run: None)
    monkeypatch.setattr(Storage, "delete", lambda storage, uri: None)
    first.take()
    with pytest.raises(UsageError, match="is being run already"):
        second.take()
    monkeypatch.undo()
    first.give_back()


def test_a_driver_that_lost_its_run_notices_and_leaves_the_other_alone(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.lease.HEARTBEAT_SECONDS", 0.01)
    lease = Lease(ledger.storage, ledger.run)
    lease.take()
    other = me()
    drive(ledger, other)
    deadline = time.monotonic() + 10
    while not lease.lost and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lease.lost
    lease.give_back()
    assert live_driver(ledger.storage, ledger.run) == other


def test_no_run_here(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        Ledger(Storage(S3()), RunDirectory(f"file://{tmp_path}")).status()


def test_bad_samples_are_counted_by_cause_and_once_for_each_step(ledger: Ledger) -> None:
    """Step 3 was done again after a failure."""
    for attempt, records in ((1, [(2, 7, "truncated"), (3, 8, "undecodable")]), (2, [(3, 8, "undecodable")])):
        writer = PartsWriter(ledger.storage, ledger.run.bad_samples, f"a{attempt:05d}-r00000-")
        for step, place, cause in records:
            writer.append({"step": step, "uri": "file:///a.tar", "place": place, "key": "k", "cause": cause})
        writer.flush()
    assert ledger.status().bad_samples == {"truncated": 1, "undecodable": 1}
