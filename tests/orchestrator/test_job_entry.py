"""What the Jobs page of a cluster says of a job, as its driver writes it; and whom a job waits behind."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from orchestrator import job_entry
from orchestrator.holders import holders, summed
from orchestrator.job_entry import JobView, view_of_driver, write_entry
from orchestrator.lease import RAY_VARIABLE, SUBMISSION_VARIABLE
from orchestrator.views.choose import Show


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The cluster's store, with one job."""
    there = {"_ray_internal_job_info_x-1": json.dumps({"status": "RUNNING", "metadata": {"name": "x"}}).encode()}

    def put(key: str, value: bytes, **_: object) -> None:
        there[key] = value

    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.experimental.internal_kv._internal_kv_get", lambda key, namespace: there.get(key))
    monkeypatch.setattr("ray.experimental.internal_kv._internal_kv_put", put)
    return there


def written(entries: dict[str, bytes]) -> Any:
    return json.loads(entries["_ray_internal_job_info_x-1"])


def test_the_entry_says_what_happened_last_and_how_far_it_is(entries: dict[str, bytes]) -> None:
    output = io.StringIO()
    with JobView(Console(file=output, width=200), "x-1") as view:
        view.event({"message": "attempt 1: 2 workers from step 0", "time": 0.0})
    assert written(entries)["message"] == "attempt 1: 2 workers from step 0"
    step = {"step": 7, "samples": 224, "samples_per_second": 10.0, "loss": 1.5, "logit_scale": 1.0, "attempt": 2}
    with JobView(Console(file=output, width=200), "x-1") as view:
        view.progress({**step, "masked": 0, "data_wait_fraction": 0.0, "time": 1.0}, 1000)
    assert written(entries) == {
        "status": "RUNNING",
        "message": "step 7 of 1,000, loss 1.5000, attempt 2",
        "metadata": {"name": "x", "progress": "step 7 of 1,000, loss 1.5000, attempt 2"},
    }
    assert len(output.getvalue().splitlines()) == 2


@pytest.mark.parametrize("entry", [b'{"status": "STOPPED", "metadata": {}}', b"?", None])
def test_an_entry_that_is_over_or_unknown_is_left_alone(entry: bytes | None, entries: dict[str, bytes]) -> None:
    entries.clear()
    if entry is not None:
        entries["_ray_internal_job_info_x-1"] = entry
    before = dict(entries)
    assert not write_entry("x-1", "late")
    assert entries == before


def test_a_typed_run_has_no_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SUBMISSION_VARIABLE, raising=False)
    monkeypatch.delenv(RAY_VARIABLE, raising=False)
    with view_of_driver(Show.TEXT, "x") as view:
        assert not isinstance(view, JobView)
    monkeypatch.setenv(SUBMISSION_VARIABLE, "x-1")
    monkeypatch.setattr(job_entry, "write_entry", lambda *_: True)
    with view_of_driver(Show.TEXT, "x") as view:
        assert isinstance(view, JobView)


def test_a_rayjob_of_kuberay_has_an_entry(entries: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"job_submission_id": "x-1", "run_directory": "s3://b/runs/x"}
    monkeypatch.delenv(SUBMISSION_VARIABLE, raising=False)
    monkeypatch.setenv(RAY_VARIABLE, json.dumps({"runtime_env": {}, "metadata": about}))
    with view_of_driver(Show.TEXT, "x") as view:
        assert isinstance(view, JobView)
        view.event({"message": "starting", "time": 0.0})
    assert written(entries)["metadata"]["progress"] == "starting"


def test_holders_are_other_jobs_by_what_they_reserve() -> None:
    bundles = [
        ("01", {"CPU": 2.0}),
        ("01", {"CPU": 2.0}),
        ("02", {"CPU": 1.0, "GPU": 1.0}),
        ("03", {"CPU": 8.0}),
        ("04", {"memory": 5.0}),
    ]
    found = summed(bundles, {"01": "digits-1", "02": "clip-7"}, without="03")
    assert [str(holder) for holder in found] == ["clip-7 (1 CPU, 1 GPU)", "digits-1 (4 CPU)"]


def test_whom_one_waits_behind_is_not_worth_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(**_: object) -> None:
        raise RuntimeError("no dashboard")

    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr("ray.util.state.list_placement_groups", away)
    assert holders() == []
    monkeypatch.delenv("RAY_ADDRESS")
    assert holders() == []
