"""Which job is meant, which there are, and how one is stopped: on a cluster, and on this machine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobspecs.errors import NotFoundError, UsageError
from jobspecs.job import JobSpec
from jobspecs.storage import S3
from orchestrator import stopping
from orchestrator.cli import app
from orchestrator.cluster import connect
from orchestrator.interrupt import Interrupt, signals
from orchestrator.jobs import find, listed
from orchestrator.lease import this_driver
from orchestrator.ledger import Ledger
from orchestrator.stop_request import StopRequest, Why, requested
from orchestrator.stopping import stop
from tests.orchestrator.conftest import TINY, digits_spec
from tests.orchestrator.fake_dashboard import FakeDashboard
from tests.orchestrator.test_submission import STORAGE, begin
from workers.run import RunDirectory


@pytest.fixture
def dashboard() -> Iterator[FakeDashboard]:
    with FakeDashboard() as dashboard:
        yield dashboard


def about(run: str, **more: str) -> dict[str, str]:
    name = run.rpartition("/")[2]
    return {"name": name, "spec_hash": "ab" * 8, "run_directory": run, "objective": "image_text", **more}


def alive(run: RunDirectory, submission_id: str | None = None, *, begun: bool = True) -> None:
    """The run has a driver: this process."""
    record = replace(this_driver(), submission_id=submission_id)
    STORAGE.write(run.driver(1), json.dumps(asdict(record)).encode())
    if begun:
        say(run, "run_started", submission_id=submission_id)


def say(run: RunDirectory, kind: str, **fields: object) -> None:
    ledger = Ledger(STORAGE, run)
    ledger.write_as(1)
    ledger.event(kind, kind, **fields)


# --- which is meant ---


def test_a_run_is_found_by_its_directory_and_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unasked() -> None:
        raise AssertionError("a path needs no cluster")

    assert find(f"{tmp_path}/job", "runs", None, unasked).run.uri == f"file://{tmp_path}/job"
    monkeypatch.chdir(tmp_path)
    assert find("job", "runs", None, lambda: None).run.uri == f"file://{tmp_path}/runs/job"
    assert find("job", "s3://b/runs", None, lambda: None).run.uri == "s3://b/runs/job"
    (tmp_path / "job").mkdir()
    assert find("job", "runs", None, lambda: None).run.uri == f"file://{tmp_path}/job"
    (tmp_path / "runs" / "job").mkdir(parents=True)
    (tmp_path / "runs" / "job" / "spec.yaml").touch()
    assert find("job", "runs", None, lambda: None).run.uri == f"file://{tmp_path}/runs/job", "the other is its data"
    (tmp_path / "job" / "spec.yaml").touch()
    assert find("job", "runs", None, lambda: None).run.uri == f"file://{tmp_path}/job"


def test_a_job_of_a_cluster_is_found_by_its_name_and_by_its_id(dashboard: FakeDashboard) -> None:
    dashboard.add("digits-1", "STOPPED", about("s3://b/digits"))
    dashboard.add("digits-2", "RUNNING", about("s3://b/digits", s3_endpoint="http://minio:9000"))
    jobs = connect(dashboard.url)
    newest = find("digits", "runs", None, lambda: jobs)
    assert (newest.run.uri, newest.entry and newest.entry.submission_id) == ("s3://b/digits", "digits-2")
    first = find("digits-1", "runs", S3(), lambda: jobs)
    assert first.entry is not None
    assert first.entry.submission_id == "digits-1"
    with pytest.raises(UsageError, match=r"has no job 'digit'\. `tandem list` .* such as runs/digit"):
        find("digit", "runs", None, lambda: jobs)


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "STOPPED"])
def test_a_job_is_followed_that_has_not_begun_its_run_yet(
    dashboard: FakeDashboard, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    followed: list[str] = []
    monkeypatch.setattr(
        "orchestrator.follow.follow_job", lambda jobs, submission_id, *_: followed.append(submission_id)
    )
    monkeypatch.setattr("orchestrator.follow.follow_run", lambda ledger, *_: followed.append(ledger.run.uri))
    dashboard.add("digits-1", state, about("s3://b/digits"))
    answer = CliRunner().invoke(app, ["status", "digits", "--follow", "--address", dashboard.url])
    assert answer.exit_code == 0, answer.output
    assert followed == ["s3://b/digits" if state == "STOPPED" else "digits-1"]


def test_a_folder_does_not_take_the_place_of_a_cluster_s_job(
    dashboard: FakeDashboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    dashboard.add("digits-1", "RUNNING", about("s3://b/digits"))
    assert find("digits", "runs", None, lambda: connect(dashboard.url)).run.uri == "s3://b/digits"
    assert find("./digits", "runs", None, lambda: connect(dashboard.url)).run.uri == f"file://{tmp_path}/digits"


def test_a_name_of_several_runs_is_not_guessed_at(dashboard: FakeDashboard) -> None:
    """They may be other people's."""
    dashboard.add("digits-a-1", "STOPPED", about("s3://ann/digits"))
    dashboard.add("digits-a-2", "RUNNING", about("s3://ann/digits"))
    dashboard.add("digits-b-1", "RUNNING", about("s3://bob/digits"))
    jobs = connect(dashboard.url)
    with pytest.raises(UsageError, match=r"several runs of the name 'digits': .* by its submission id") as error:
        find("digits", "runs", None, lambda: jobs)
    assert "digits-a-2 (s3://ann/digits)" in str(error.value)
    assert "digits-b-1 (s3://bob/digits)" in str(error.value)
    assert "digits-a-1" not in str(error.value)
    assert find("digits-a-1", "runs", None, lambda: jobs).run.uri == "s3://ann/digits"


def test_a_job_that_has_not_begun_its_run(dashboard: FakeDashboard, tmp_path: Path) -> None:
    dashboard.add("x-1", "FAILED", about(f"file://{tmp_path}/x"), message="no module named deepspeed")
    job = find("x", "runs", None, lambda: connect(dashboard.url))
    with pytest.raises(UsageError, match=r"x-1 has not begun its run yet: it is failed .no module named deepspeed"):
        job.status()


# --- which there are ---


def test_runs_and_jobs_are_listed_once_each(dashboard: FakeDashboard, digits: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    here = begin(digits_spec(digits, root, *TINY, "name=here"))
    say(here, "run_started")
    say(here, "run_interrupted")
    both = begin(digits_spec(digits, root, *TINY, "name=both"))
    say(both, "run_started", submission_id="both-1")
    say(both, "run_interrupted")
    waits = begin(digits_spec(digits, root, *TINY, "name=waits"))
    say(waits, "run_started")
    say(waits, "run_failed")
    damaged = RunDirectory(f"file://{root}/damaged")
    STORAGE.write(damaged.plan, b"?")
    dashboard.add("both-1", "STOPPED", about(both.uri, progress="step 3 of 9"))
    dashboard.add("waits-1", "FAILED", about(waits.uri))
    dashboard.add("waits-2", "PENDING", about(waits.uri, progress="submitted"))
    dashboard.add("far-1", "RUNNING", about("s3://b/far", progress="step 5 of 9, loss 1.5"))

    found = {job.name: job for job in listed(connect(dashboard.url), str(root), None)}
    assert sorted(found) == ["both", "damaged", "far", "here", "waits"]
    assert (found["here"].state, found["here"].submission_id) == ("interrupted", None)
    assert (found["here"].progress, found["here"].objective) == ("step 0 of 350", "image_text")
    assert (found["both"].state, found["both"].submission_id) == ("interrupted", "both-1")
    assert (found["waits"].state, found["waits"].submission_id) == ("pending", "waits-2")
    assert (found["far"].state, found["far"].progress) == ("running", "step 5 of 9, loss 1.5")
    assert "plan.json can't be read" in found["damaged"].progress
    assert [job.name for job in listed(None, str(root), None)][-1] == "damaged"
    assert listed(None, str(tmp_path / "nowhere"), None) == []


# --- how one is stopped ---


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(f"file://{tmp_path}/job")


@pytest.mark.parametrize(("now", "why"), [(False, Why.INTERRUPTED), (True, Why.NOW)])
def test_a_typed_run_is_asked_in_its_directory(now: bool, why: Why, run: RunDirectory) -> None:
    alive(run)
    done = stop(find(run.uri, "runs", None, lambda: None), now=now, connect=lambda: None)
    assert (done.asked, requested(STORAGE, run)) == (True, why)
    assert ("at once" if now else "with a commit") in done.message


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("now", [False, True])
def test_a_job_of_a_cluster_is_stopped_through_it(
    named: bool, now: bool, dashboard: FakeDashboard, run: RunDirectory
) -> None:
    """Whether it was found there or by its run directory. One request to end with a commit: two would be one to end
    at once."""
    dashboard.add("job-1", "RUNNING", about(run.uri))
    alive(run, "job-1")
    done = stop(
        find("job" if named else run.uri, "runs", None, lambda: connect(dashboard.url)),
        now=now,
        connect=lambda: connect(dashboard.url),
    )
    assert (done.submission_id, dashboard.jobs["job-1"]["status"]) == ("job-1", "STOPPED")
    assert requested(STORAGE, run) is (Why.NOW if now else None)


def test_a_job_whose_cluster_is_not_named_is_asked_in_its_directory(run: RunDirectory) -> None:
    alive(run, "job-1")
    stop(find(run.uri, "runs", None, lambda: None), now=False, connect=lambda: None)
    assert requested(STORAGE, run) is Why.INTERRUPTED


@pytest.mark.parametrize("now", [False, True])
def test_a_job_that_waits_for_its_driver_is_taken_from_the_cluster(
    now: bool, dashboard: FakeDashboard, run: RunDirectory
) -> None:
    dashboard.add("job-1", "PENDING", about(run.uri))
    assert stop(find("job", "runs", None, lambda: connect(dashboard.url)), now=now, connect=lambda: None).asked
    assert dashboard.jobs["job-1"]["status"] == "STOPPED"


def test_a_job_that_is_over_is_not_stopped(dashboard: FakeDashboard, run: RunDirectory) -> None:
    dashboard.add("job-1", "FAILED", about(run.uri))
    done = stop(find("job", "runs", None, lambda: connect(dashboard.url)), now=False, connect=lambda: None)
    assert not done.asked
    assert "job does not run; `tandem status" in done.message
    assert ("POST", "/api/jobs/job-1/stop") not in dashboard.asked


def test_a_driver_that_has_not_begun_would_clear_the_request_away(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "POLL_SECONDS", 0.01)
    alive(run, begun=False)
    job = find(run.uri, "runs", None, lambda: None)
    asking = threading.Thread(target=stop, args=(job,), kwargs={"now": False, "connect": lambda: None})
    asking.start()
    time.sleep(0.1)
    assert requested(STORAGE, run) is None
    say(run, "run_started")
    asking.join(60)
    assert requested(STORAGE, run) is Why.INTERRUPTED
    monkeypatch.setattr(stopping, "BEGIN_SECONDS", 0.0)
    STORAGE.delete(f"{run.events}/d00001-000000.jsonl")
    with pytest.raises(UsageError, match=r"which has not begun within 0 s"):
        stop(job, now=False, connect=lambda: None)


def test_a_request_to_end_at_once_is_a_second_signal(run: RunDirectory) -> None:
    interrupt = Interrupt()
    asked = StopRequest(STORAGE, run, _Silent(), interrupt)  # type: ignore[arg-type]
    with signals(interrupt):
        assert not asked.is_made()
        STORAGE.write(run.stop, Why.NOW.encode())
        with pytest.raises(KeyboardInterrupt):
            asked.is_made()
        assert asked.is_made()
        interrupt.at_once()


class _Silent:
    def event(self, kind: str, message: str, /, **fields: object) -> None:
        pass


@pytest.mark.parametrize("found", ["on the cluster", "by its directory", "by its directory, of AWS", "of no spec"])
def test_the_command_that_tells_how_a_run_ended_reaches_its_server(
    found: str, dashboard: FakeDashboard, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spec(*_: object) -> JobSpec:
        if found == "of no spec":
            raise NotFoundError("none")
        return digits_spec(digits, tmp_path, *([] if "AWS" in found else ["storage.s3.endpoint=http://minio:9000"]))

    monkeypatch.setattr(stopping, "load_spec", spec)
    monkeypatch.setattr(stopping, "live_driver", lambda *_: None)
    dashboard.add("x-1", "FAILED", about("s3://b/x", s3_endpoint="http://minio:9000"))
    jobs = connect(dashboard.url)
    job = find("x" if found == "on the cluster" else "s3://b/x", "runs", None, lambda: jobs)
    server = "" if found in ("by its directory, of AWS", "of no spec") else " --endpoint http://minio:9000"
    told = stop(job, now=False, connect=lambda: None).message
    assert told == f"x does not run; `tandem status s3://b/x{server}` says how it ended"
