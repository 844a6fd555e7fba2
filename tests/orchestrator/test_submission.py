"""What is submitted, and what is refused: ids, metadata, code, runs that are there already."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from jobspecs.columns import PretrainedTokenizer
from jobspecs.errors import JobFailedError, UsageError
from jobspecs.job import JobSpec
from jobspecs.load import dumps
from jobspecs.storage import S3
from orchestrator import submission
from orchestrator.cluster import RayJobs, connect
from orchestrator.lease import SUBMISSION_VARIABLE, this_driver
from orchestrator.named_uris import named_models
from orchestrator.prepare import prepare
from orchestrator.submission import free_name, next_id, runtime_env, submit, warn_of_root
from tests.orchestrator.conftest import TINY, digits_spec
from tests.orchestrator.fake_dashboard import FakeDashboard
from tests.workers.pretrained_folders import clip_like
from workers.run import RunDirectory
from workers.storage import Storage

STORAGE = Storage()


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDashboard]:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")  # --address counts before it
    with FakeDashboard() as dashboard:
        yield dashboard


@pytest.fixture
def spec(digits: Path, tmp_path: Path) -> JobSpec:
    return digits_spec(digits, tmp_path / "runs", *TINY)


def begin(spec: JobSpec, *, driver: bool = False, submission_id: str | None = None) -> RunDirectory:
    """A run that was started before, and is driven now if it has a `driver`."""
    prepared = prepare(spec)
    STORAGE.write(prepared.run.plan, prepared.fixed.to_json())
    for name, tokenizer in prepared.tokenizers.items():
        STORAGE.write(prepared.run.tokenizer(name), tokenizer.to_bytes())
    STORAGE.write(prepared.run.spec, dumps(prepared.spec).encode())
    if driver:
        record = replace(this_driver(), submission_id=submission_id)
        STORAGE.write(prepared.run.driver(1), json.dumps(asdict(record)).encode())
    return prepared.run


def test_a_job_is_shipped_with_its_code_and_its_spec(dashboard: FakeDashboard, spec: JobSpec, tmp_path: Path) -> None:
    hash8 = spec.experiment_hash()[:8]
    submitted = submit(spec, connect(dashboard.url))
    job = dashboard.jobs[f"digits-clip-{hash8}-1"]
    assert submitted.submission_id == job["submission_id"]
    assert (submitted.total_steps, submitted.resumed, submitted.cluster) == (350, False, dashboard.url)
    assert job["entrypoint"] == "python -m orchestrator.cli run digits-clip.yaml"
    assert job["metadata"] == {
        "name": "digits-clip",
        "job_name": "digits-clip",
        "spec_hash": spec.experiment_hash()[:16],
        "objective": "image_text",
        "run_directory": f"file://{tmp_path}/runs/digits-clip",
        "progress": "submitted",
    }
    shipped = job["runtime_env"]
    assert shipped["working_dir"].startswith("gcs://")
    assert len(shipped["py_modules"]) == 3
    assert shipped["env_vars"] == {SUBMISSION_VARIABLE: f"digits-clip-{hash8}-1", "RAY_JOB_STOP_WAIT_TIME_S": "300"}
    assert len(dashboard.packages) == 4
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:9"


def test_installed_ships_the_spec_alone(dashboard: FakeDashboard, spec: JobSpec) -> None:
    submitted = submit(spec, connect(dashboard.url), installed=True)
    assert submitted.submission_id is not None
    assert "py_modules" not in dashboard.jobs[submitted.submission_id]["runtime_env"]
    assert len(dashboard.packages) == 1


def test_what_is_shipped_is_the_three_packages() -> None:
    modules = runtime_env("id", "/spec", installed=False)["py_modules"]
    assert [Path(module).name for module in modules] == ["jobspecs", "workers", "orchestrator"]
    assert all((Path(module) / "__init__.py").exists() for module in modules)


def test_submissions_are_counted(spec: JobSpec) -> None:
    stem = f"digits-clip-{spec.experiment_hash()[:8]}"
    assert next_id(spec, []) == f"{stem}-1"
    assert next_id(spec, [f"{stem}-2", f"{stem}-10", f"{stem}-x", "other-99", f"x{stem}-77"]) == f"{stem}-11"


@pytest.mark.parametrize("status", ["PENDING", "RUNNING"])
def test_a_job_that_runs_is_refused_with_its_id(status: str, dashboard: FakeDashboard, spec: JobSpec) -> None:
    first = submit(spec, connect(dashboard.url)).submission_id
    assert first is not None
    dashboard.jobs[first]["status"] = status
    with pytest.raises(UsageError, match=rf"digits-clip is running already, as job {first}. Watch it .* --new-run"):
        submit(spec, connect(dashboard.url))


def test_two_submissions_at_once(dashboard: FakeDashboard, spec: JobSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster takes one of that id; the other hears of it."""

    def lose(jobs: RayJobs, *arguments: object) -> None:
        dashboard.add("digits-clip-x-1", "PENDING", submission.metadata(spec, RunDirectory(run)))
        raise JobFailedError("already used")

    run = f"{spec.storage.root}/digits-clip"
    run = f"file://{run}"
    monkeypatch.setattr(RayJobs, "submit", lose)
    with pytest.raises(UsageError, match=r"is running already, as job digits-clip-x-1"):
        submit(spec, connect(dashboard.url))


@pytest.mark.parametrize("status", ["STOPPED", "FAILED"])
def test_a_job_that_stopped_is_gone_on_with(status: str, dashboard: FakeDashboard, spec: JobSpec) -> None:
    first = submit(spec, connect(dashboard.url)).submission_id
    assert first is not None
    dashboard.jobs[first]["status"] = status
    begin(spec)
    again = submit(spec, connect(dashboard.url))
    assert (again.resumed, again.submission_id) == (True, first[:-1] + "2")


@pytest.mark.parametrize(("job", "who"), [(None, "process {pid}"), ("x-1", "job x-1 of another cluster")])
def test_a_run_that_another_drives(job: str | None, who: str, dashboard: FakeDashboard, spec: JobSpec) -> None:
    begin(spec, driver=True, submission_id=job)
    with pytest.raises(UsageError, match=rf"digits-clip is being run already, by {who.format(pid=os.getpid())} on"):
        submit(spec, connect(dashboard.url))
    assert not dashboard.jobs


def test_another_experiment_is_refused_with_the_difference(
    dashboard: FakeDashboard, spec: JobSpec, digits: Path, tmp_path: Path
) -> None:
    begin(spec)
    other = digits_spec(digits, tmp_path / "runs", *TINY, "training.global_batch=64")
    with pytest.raises(UsageError, match=r"training.global_batch: 32 -> 64") as error:
        submit(other, connect(dashboard.url))
    assert "`tandem submit --new-run` finds a name" in str(error.value)
    assert not dashboard.jobs
    submitted = submit(other, connect(dashboard.url), new_run=True)
    assert (submitted.name, submitted.resumed) == ("digits-clip-2", False)
    assert dashboard.jobs[submitted.submission_id or ""]["entrypoint"].endswith("run digits-clip-2.yaml")


def test_a_name_that_no_run_has(tmp_path: Path) -> None:
    root = f"file://{tmp_path}"
    assert free_name("job", root, STORAGE, []) == "job"
    for name in ("job", "job-2", 63 * "x"):
        STORAGE.write(RunDirectory(f"{root}/{name}").plan, b"")
    assert free_name("job", root, STORAGE, []) == "job-3"
    assert free_name(63 * "x", root, STORAGE, []) == 61 * "x" + "-2"


def test_a_run_that_is_only_submitted_has_its_name(dashboard: FakeDashboard, spec: JobSpec) -> None:
    jobs = connect(dashboard.url)
    submitted = [submit(spec, jobs, new_run=True) for _ in range(3)]
    assert [each.name for each in submitted] == ["digits-clip", "digits-clip-2", "digits-clip-3"]
    dashboard.jobs[submitted[1].submission_id or ""]["status"] = "STOPPED"  # before it began: nothing is of that name
    assert submit(spec, jobs, new_run=True).name == "digits-clip-2"


def test_a_finished_run_is_left_as_it_is(
    dashboard: FakeDashboard, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(spec)
    monkeypatch.setattr(submission, "finished", lambda prepared, ledger: True)
    assert submit(spec, connect(dashboard.url)).submission_id is None
    assert not dashboard.jobs


def test_tars_without_counts_are_left_to_the_cluster(dashboard: FakeDashboard, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for tar in (digits / "train").glob("*.tar"):
        (tmp_path / "train" / tar.name).symlink_to(tar)
    (tmp_path / "test").symlink_to(digits / "test")
    submitted = submit(digits_spec(tmp_path, tmp_path / "runs", *TINY), connect(dashboard.url))
    assert submitted.total_steps is None
    assert submitted.submission_id in dashboard.jobs


def test_a_wrong_spec_reaches_no_cluster(dashboard: FakeDashboard, digits: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"17"):
        submit(digits_spec(digits, tmp_path, *TINY, "cluster.workers=17"), connect(dashboard.url))
    assert not dashboard.jobs


@pytest.mark.parametrize(
    ("root", "cluster", "warned"),
    [
        ("file:///me/runs", "http://head.invalid:8265", True),
        ("file:///me/runs", "https://192.0.2.7", True),
        ("s3://bucket/runs", "http://head.invalid:8265", False),
        ("file:///me/runs", "http://127.0.0.1:8265", False),
        ("file:///me/runs", "http://localhost:8265", False),
        ("file:///me/runs", "http://[::1]:8265", False),
    ],
)
def test_runs_in_a_folder_of_another_machine(
    root: str, cluster: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_root(root, cluster)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warned
    assert ("storage.root file:///me/runs is a folder, and the cluster is on" in caplog.text) is warned


def test_a_submission_to_another_machine_is_warned_of_its_root(
    dashboard: FakeDashboard, spec: JobSpec, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert submit(spec, connect(dashboard.url), new_run=True).submission_id is not None
    assert "is a folder" not in caplog.text
    monkeypatch.setattr(submission, "_is_this_machine", lambda host: False)
    assert submit(spec, connect(dashboard.url), new_run=True).submission_id is not None
    assert "set storage.root to an s3:// URI" in caplog.text


def test_the_folder_of_a_model_is_shipped_with_its_place(
    dashboard: FakeDashboard, spec: JobSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bare name might be another model's on the hub."""
    clip_like(tmp_path / "tokenizers" / "clip")
    monkeypatch.chdir(tmp_path)
    tokenizer = PretrainedTokenizer(kind="pretrained", name="tokenizers/clip")
    assert spec.data.text is not None
    text = spec.data.text.model_copy(update={"tokenizer": tokenizer})
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"text": text})})
    shipped: list[JobSpec] = []

    def kept(spec: JobSpec) -> str:
        shipped.append(spec)
        return dumps(spec)

    monkeypatch.setattr(submission, "dumps", kept)
    submitted = submit(spec, connect(dashboard.url))
    assert named_models(shipped[0]) == [("data.text.tokenizer.name", f"{tmp_path}/./tokenizers/clip")]
    assert submitted.spec_hash == spec.experiment_hash()


def test_a_cluster_that_does_not_take_the_job(dashboard: FakeDashboard, spec: JobSpec) -> None:
    dashboard.status, dashboard.only_posts_fail = 500, True
    with pytest.raises(JobFailedError, match=r"did not take the job digits-clip-\w+-1: ValueError: broken"):
        submit(spec, connect(dashboard.url))


def test_the_command_that_stops_another_s_run_reaches_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "live_driver", lambda *_: this_driver())
    with pytest.raises(UsageError, match=r"`tandem stop s3://b/runs/x --endpoint http://minio:9000`; --new-run"):
        submission.refuse_running(RunDirectory("s3://b/runs/x"), [], STORAGE, S3(endpoint="http://minio:9000"))
