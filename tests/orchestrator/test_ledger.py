"""Status and metrics follow from what was recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobspecs.errors import UsageError
from jobspecs.evaluation import evaluation_hash
from jobspecs.load import dumps, loads
from jobspecs.storage import S3
from orchestrator.lease import Lease
from orchestrator.ledger import Ledger
from orchestrator.results import as_csv, failures
from tests.workers.tiny_job import SPEC
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


@pytest.fixture
def driven(ledger: Ledger) -> Iterator[None]:
    """The run has a driver."""
    lease = Lease(ledger.storage, ledger.run)
    lease.take()
    yield
    lease.give_back()


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


@pytest.mark.usefixtures("driven")
def test_status_of_a_run_under_way(ledger: Ledger) -> None:
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
@pytest.mark.usefixtures("driven")
def test_states(ledger: Ledger, event: str, state: str) -> None:
    ledger.event("run_started", "started")
    ledger.event(event, "…")
    assert ledger.status().state == state


def test_events_of_several_drivers_stand_in_order(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has parts of its own, also where the first one goes on beside the second: none is overwritten."""
    monkeypatch.setattr(PartsWriter, "PART_BYTES", 1)
    second = Ledger(ledger.storage, ledger.run)
    ledger.write_as(1)
    second.write_as(2)
    for writer, message in ((ledger, "one"), (second, "three"), (ledger, "two"), (second, "four")):
        writer.event("run_started", message)
    assert [event["message"] for event in ledger.events()] == ["one", "two", "three", "four"]


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


# --- evaluations ---


def write_result(ledger: Ledger, step: int, name: str, **fields: object) -> None:
    result = {"step": step, "evaluation": name, "main": "acc@1", "scores": {"acc@1": 0.5}, **fields}
    ledger.storage.write(ledger.run.evaluation(step, name), json.dumps(result).encode())


def fail(ledger: Ledger, step: int, name: str) -> None:
    ledger.event("evaluation_failed", "…", evaluation=name, step=step, reason="no room", again=False)


def test_an_evaluation_that_failed_and_has_a_result_since_has_not_failed(ledger: Ledger) -> None:
    for step, name in ((1, "mended"), (2, "mended"), (1, "other")):
        fail(ledger, step, name)
    write_result(ledger, 1, "mended")
    assert failures(ledger.status().evaluations) == [
        "evaluation other of step 1 failed: no room",
        "evaluation mended of step 2 failed: no room",
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff",
        b'{"step": 1, "evaluation": "a", "main": "acc@1", "scores": null}',
        b'{"step": 1, "evaluation": "a", "main": "acc@1", "scores": {"acc@5": 1.0}}',
        b'{"step": "1", "evaluation": "a", "main": "acc@1", "scores": {"acc@1": 1.0}}',
    ],
)
def test_a_damaged_result_is_none(ledger: Ledger, content: bytes) -> None:
    write_result(ledger, 1, "whole")
    fail(ledger, 1, "a")
    ledger.storage.write(ledger.run.evaluation(1, "a"), content)
    whole, failed = ledger.status().evaluations
    assert (whole["evaluation"], failed["evaluation"], failed["failed"]) == ("whole", "a", "no room")
    assert ledger.results() == [whole]


RETRIEVAL = "evaluations: [{kind: retrieval, name: a, data: {urls: [%s]}}]\n"


def test_results_of_a_section_that_was_changed_stand_apart(ledger: Ledger) -> None:
    """Under one name they would make one curve. Those of evaluations that the spec has not, and those that say nothing
    of their section, are as they were."""
    old, now = (loads(SPEC % "data" + RETRIEVAL % tar) for tar in ("old.tar", "new.tar"))
    ledger.storage.write(ledger.run.spec, dumps(now).encode())
    of_old, of_now = (evaluation_hash(spec.evaluations[0]) for spec in (old, now))
    write_result(ledger, 1, "a", spec_hash=of_old)
    write_result(ledger, 2, "a", spec_hash=of_now)
    write_result(ledger, 3, "a")
    write_result(ledger, 3, "removed", spec_hash="other")
    fail(ledger, 1, "a")  # of the section as it is now
    apart = f"a (earlier section {of_old[:8]})"
    found = ledger.status().evaluations
    assert [(each["step"], each["evaluation"]) for each in found] == [
        (1, apart),
        (2, "a"),
        (3, "a"),
        (3, "removed"),
        (1, "a"),
    ]
    assert failures(found) == ["evaluation a of step 1 failed: no room"]
    assert f"1,{apart}," in as_csv(found)
    for content in (b"of: another version", b"\xff"):
        ledger.storage.write(ledger.run.spec, content)
        assert ledger.results()[0]["evaluation"] == "a", "which section is now can't be told"
