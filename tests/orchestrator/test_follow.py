"""A run that something else drives, by hand-made run directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobspecs.errors import UnreachableError, UsageError
from orchestrator import follow, following
from orchestrator.api import Run
from orchestrator.cluster import Entry, connect
from orchestrator.ledger import Ledger
from orchestrator.views.choose import Show
from orchestrator.views.view import View
from tests.orchestrator.fake_dashboard import FakeDashboard
from tests.orchestrator.views.story import event, metrics
from workers.run import PartsWriter


class Seen(View):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.lines: list[str] = []
        self.steps: list[int] = []

    def event(self, event: dict[str, Any]) -> None:
        self.events.append(event["event"])

    def line(self, message: str) -> None:
        self.lines.append(message)

    def progress(self, metrics: dict[str, Any], total_steps: int) -> None:
        self.steps.append(metrics["step"])

    def results(self, status: object, title: str) -> None:
        raise AssertionError


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    for module in (follow, following):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.0)
    return Run.open(tmp_path).ledger


def test_what_is_new_is_shown_once_and_the_last_look_sees_all(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = type("Plan", (), {"total_steps": 9})()
    monkeypatch.setattr(ledger, "plan", lambda: plan)
    record = PartsWriter(ledger.storage, ledger.run.metrics, "a00002-")
    looks = 0

    def is_over() -> bool:
        nonlocal looks
        looks += 1
        if looks == 2:
            ledger.event("attempt_started", "", attempt=2, step=3, world_size=1)
            record.append(metrics(4, 1.0, attempt=2))
            record.flush()
        if looks == 4:
            ledger.event("run_succeeded", "")
        return looks == 4

    ledger.event("run_started", "", submission_id="x-1")
    ledger.event("run_interrupted", "")
    ledger.event("run_started", "", submission_id="x-2")
    view = Seen()
    follow.follow(ledger, view, "x-2", is_over)
    assert view.events == ["run_started", "attempt_started", "run_succeeded"]
    assert set(view.steps) == {4}


def test_a_go_begins_where_its_driver_does() -> None:
    events = [
        event("run_started", submission_id="x-1"),
        event("a"),
        event("run_started", submission_id=None),
        event("b"),
    ]
    assert [each["event"] for each in follow.of_newest_go(events, None)] == ["run_started", "b"]
    assert [each["event"] for each in follow.of_newest_go(events, "x-1")] == ["run_started", "a", "run_started", "b"]
    assert follow.of_newest_go(events, "x-9") == []


def test_a_storage_that_is_away_is_told_of(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise UnreachableError("no answer")

    monkeypatch.setattr(ledger, "events", away)
    view = Seen()
    follow.follow(ledger, view, None, lambda: True)
    assert view.lines == ["the run directory did not answer: no answer"]
    assert view.events == []


def test_events_are_shown_once_where_a_read_after_them_fails(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, over = iter([UnreachableError("no answer"), None]), iter([False, True])

    def last_metrics() -> None:
        if (error := next(answers)) is not None:
            raise error

    monkeypatch.setattr(ledger, "last_metrics", last_metrics)
    ledger.event("run_started", "")
    view = Seen()
    follow.follow(ledger, view, None, lambda: next(over))
    assert view.events == ["run_started"]


class FakeJobs:
    """A cluster whose job is over at the second look."""

    def __init__(self, status: str) -> None:
        self.entries = iter([entry("RUNNING"), *[entry(status)] * 3])

    def entry(self, submission_id: str) -> Entry:
        return next(self.entries)

    def log(self, submission_id: str) -> str:
        return "".join(f"line {number}\n" for number in range(30))


def entry(status: str) -> Entry:
    return Entry("x-1", status, "x", "", "", "", "", None, 0.0, "", None)


@pytest.mark.parametrize("show", [Show.JSON, Show.QUIET])
def test_a_job_that_failed_before_its_run_began_tells_the_end_of_its_log(
    show: Show, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    assert follow.follow_job(FakeJobs("FAILED"), "x-1", ledger, show).status == "FAILED"  # type: ignore[arg-type]
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [f"line {number}" for number in range(10, 30)]


def test_a_job_that_nobody_looks_at_is_shown_by_its_log(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    follow.follow_job(FakeJobs("SUCCEEDED"), "x-1", ledger, Show.TEXT)  # type: ignore[arg-type]
    assert len(capsys.readouterr().out.splitlines()) == 30


def test_a_cluster_that_is_busy_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """But not one that has no such job, nor for ever."""
    with FakeDashboard() as dashboard:
        jobs = connect(dashboard.url)
        monkeypatch.setattr("orchestrator.following.time.sleep", lambda seconds: setattr(dashboard, "status", 200))
        dashboard.status = 503
        with pytest.raises(UsageError, match="has no job x-1"):
            following.patiently(lambda: jobs.entry("x-1"))
        assert dashboard.asked.count(("GET", "/api/jobs/x-1")) == 2
        dashboard.status = 503
        monkeypatch.setattr(following, "PATIENCE_SECONDS", 0.0)
        with pytest.raises(UsageError, match="HTTP 503"):
            following.patiently(lambda: jobs.entry("x-1"))
    with pytest.raises(UsageError, match="there is no Ray cluster"):
        following.patiently(lambda: jobs.entry("x-1"))
