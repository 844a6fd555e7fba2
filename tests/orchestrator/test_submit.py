"""A job on a real cluster, from the command line: submitted, made to wait, watched, stopped, gone on with, finished.

One story in several tests, in this order: a cluster and each start of a job take seconds.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from typer.testing import CliRunner

from jobspecs.storage import S3
from orchestrator.cli import app
from orchestrator.cluster import connect
from tests.orchestrator.command import ledger_of, set_flags, tandem
from tests.orchestrator.conftest import EXAMPLE, TINY, overrides
from tests.orchestrator.token_cluster import TokenCluster
from workers.run import committed_steps

pytestmark = pytest.mark.ray

ROOT, STEPS = "s3://tandem-submit/runs", 600
PATIENCE_SECONDS = 600.0


@pytest.fixture(scope="module")
def cluster(s3_server: str) -> Iterator[TokenCluster]:
    """Two cores, and the token in our environment; the run directories are in S3."""
    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="tandem-submit")
    with TokenCluster(cpus=2) as cluster, pytest.MonkeyPatch.context() as environment:
        # Attempts in this process leave the address of their Ray.
        environment.delenv("RAY_API_SERVER_ADDRESS", raising=False)
        environment.setenv("RAY_AUTH_TOKEN", cluster.token)
        environment.setenv("RAY_ADDRESS", cluster.url)
        yield cluster


@pytest.fixture
def spec(digits: Path, s3_server: str) -> Callable[..., list[str]]:
    """Arguments of a job that takes both cores."""
    job = (
        *TINY,
        "evaluations=[]",
        f"training.steps={STEPS}",
        "training.optimizer.learning_rate=2e-4",
        "checkpoint.every_steps=100000",
        "cluster.workers=2",
        f"storage.s3.endpoint={s3_server}",
    )
    return lambda *more: [str(EXAMPLE), *set_flags(overrides(digits, ROOT, *job, *more))]


def call(*arguments: str, code: int = 0) -> str:
    """What a command prints, on either stream."""
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == code, answer.output
    return answer.output


def ask(*arguments: str) -> Any:
    return json.loads(call(*arguments, "-o", "json"))


def until(true: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (answer := true()):
        assert time.monotonic() < deadline, f"waited for {what}\n{call('list')}\n{call('logs', 'digits-clip')}"
        time.sleep(1)
    return answer


def entry() -> dict[str, Any]:
    """The job in `tandem list`."""
    (job,) = ask("list")
    return dict(job)


BLOCKER = """
import ray, time
ray.init(log_to_driver=False)
ray.get(ray.util.placement_group([{"CPU": 2}]).ready())
print("blocks", flush=True)
time.sleep(3600)
"""


def test_a_job_that_waits_says_for_what_and_behind_whom(cluster: TokenCluster, spec: Callable[..., list[str]]) -> None:
    jobs = connect(cluster.url)
    jobs.submit("blocker-1", f"python -c {shlex.quote(BLOCKER)}", {}, {})
    until(lambda: "\nblocks\n" in jobs.log("blocker-1"), "the cores to be taken")
    submitted = ask("submit", *spec())
    first = submitted["submission_id"]
    assert first == f"digits-clip-{submitted['spec_hash'][:8]}-1"
    assert first in call("submit", *spec(), code=2)
    job = until(lambda: (job := entry())["progress"].startswith("waiting") and job, "a job that waits")
    assert "for 2 workers of 1 CPU: there is room for 0, behind blocker-1 (2 CPU)" in job["progress"]
    assert (job["state"], job["submission_id"], job["objective"]) == ("running", first, "image_text")
    # The dashboard's own list says the same.
    until(lambda: "behind blocker-1" in jobs.entry(first).message, "the message of its entry")
    assert "behind blocker-1" in jobs.entry(first).progress
    jobs.stop("blocker-1")


def test_a_job_is_watched(cluster: TokenCluster) -> None:
    job = until(lambda: (job := entry())["progress"].startswith("step") and job, "a step")
    first = job["submission_id"]
    assert ask("status", first)["submission_id"] == first
    assert "attempt 1: 2 workers from step 0" in call("logs", first)


def test_a_job_is_stopped_with_a_commit_and_gone_on_with(cluster: TokenCluster, s3_server: str) -> None:
    first = entry()["submission_id"]
    assert "with a commit" in call("stop", "digits-clip")
    until(lambda: entry()["state"] == "interrupted", "its end")
    run = ledger_of(ROOT, "digits-clip", S3(endpoint=s3_server))
    status = run.status()
    assert 0 < status.step < STEPS
    assert committed_steps(run.storage, run.run) == [status.step]
    until(lambda: connect(cluster.url).entry(first).status == "STOPPED", "the cluster's word")
    assert not ask("stop", "digits-clip")["asked"]

    output = call("resume", "digits-clip", "--follow")
    assert f"digits-clip goes on as job {first[:-1]}2" in output
    assert f"attempt 2: 2 workers from step {status.step}" in output
    assert "succeeded" in output
    assert [record["step"] for record in run.metrics()] == list(range(1, STEPS + 1))
    # The ranks of the attempt that was stopped are gone, their logs are not.
    log = call("logs", run.run.uri, "--attempt", "1", "--endpoint", s3_server)
    assert "[a1 r0] rank 0 of attempt 1: process" in log
    assert "[a1 r1] rank 1 of attempt 1: process" in log


def test_a_finished_job_is_left_as_it_is(cluster: TokenCluster, spec: Callable[..., list[str]]) -> None:
    assert "is finished" in call("submit", *spec())
    until(lambda: entry()["state"] == "succeeded", "the cluster's word")


def test_the_cluster_is_found_by_its_own_address_too(cluster: TokenCluster) -> None:
    answer = tandem("list", "--address", cluster.gcs_address, "-o", "json")
    assert {job["name"] for job in json.loads(answer.stdout)} == {"digits-clip"}
    wrong = tandem("list", "--address", cluster.gcs_address, env={"RAY_AUTH_TOKEN": "planted"})
    assert wrong.returncode == 2
    assert "does not take this token" in wrong.stderr
    assert "planted" not in wrong.stderr
