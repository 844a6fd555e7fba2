"""Jobs on a cluster of three nodes, from the command line, in Ray's dashboard and in Prometheus: submitted, made to
wait, watched, stopped, gone on with, finished.

One story in several tests, in this order: a cluster and each start of a job take seconds. The job `first` has as many
steps as it takes; `digits-clip` waits behind it, and comes to its end.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from typer.testing import CliRunner

from jobspecs.storage import S3
from orchestrator.cli import app
from orchestrator.cluster import connect
from tests import waiting
from tests.browser import Browser
from tests.local_cluster import BUCKET, LocalCluster, local_cluster
from tests.orchestrator.command import ledger_of, set_flags, tandem
from tests.orchestrator.conftest import EXAMPLE, TINY, overrides
from tests.orchestrator.prometheus import INSTALLED, Seen
from workers.run import committed_steps

pytestmark = pytest.mark.ray

ROOT, STEPS = f"s3://{BUCKET}/runs", 1200

Spec = Callable[..., list[str]]
T = TypeVar("T")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Nodes of two cores, and the token in a file that our environment names. The folder that we are in has no runs."""
    with (
        local_cluster(tmp_path_factory.mktemp("cluster")) as cluster,
        contextlib.chdir(tmp_path_factory.mktemp("elsewhere")),
    ):
        yield cluster


@pytest.fixture(scope="module")
def spec(cluster: LocalCluster, digits: Path) -> Spec:
    """Arguments of a job whose two ranks take a node each."""
    data = cluster.upload(digits, "digits")
    job = (
        *TINY,
        "evaluations=[]",
        "training.optimizer.learning_rate=2e-4",
        "checkpoint.every_steps=100000",
        "cluster={workers: 2, cpus_per_worker: 2}",
        f"storage.s3.endpoint={cluster.s3_endpoint}",
    )
    return lambda *more: [str(EXAMPLE), *set_flags(overrides(data, ROOT, *job, *more))]


def call(*arguments: str, code: int = 0) -> str:
    """What a command prints, on either stream."""
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == code, answer.output
    return answer.output


def ask(*arguments: str) -> Any:
    return json.loads(call(*arguments, "-o", "json"))


def until(look: Callable[[], T], what: str) -> T:
    """Commands that fail, as there is no log yet or the cluster is busy, are called again."""
    return waiting.until(look, what, every_seconds=1)


def entry(name: str) -> dict[str, Any]:
    """The job in `tandem list`."""
    (job,) = (job for job in ask("list") if job["name"] == name)
    return dict(job)


def test_a_job_is_submitted_and_watched(cluster: LocalCluster, spec: Spec) -> None:
    job = spec("name=first", "training.steps=100000")
    submitted = ask("submit", *job)
    first = submitted["submission_id"]
    assert first == f"first-{submitted['spec_hash'][:8]}-1"
    assert first in call("submit", *job, code=2)
    listed = until(lambda: (job := entry("first"))["progress"].startswith("step") and job, "a step")
    assert (listed["state"], listed["submission_id"], listed["objective"]) == ("running", first, "image_text")
    assert ask("status", first)["submission_id"] == first
    assert "attempt 1: 2 workers from step 0" in call("logs", first)
    until(lambda: "[a1 r1] rank 1 of attempt 1: process" in call("logs", first, "--rank", "1"), "the log of a rank")


def test_a_second_job_says_for_what_it_waits_and_behind_whom(cluster: LocalCluster, spec: Spec) -> None:
    second = ask("submit", *spec(f"training.steps={STEPS}"))["submission_id"]
    job = until(lambda: (job := entry("digits-clip"))["progress"].startswith("waiting") and job, "a job that waits")
    # One of its workers could start, and does not without the other.
    assert "for 2 workers of 2 CPU: there is room for 1, behind first-" in job["progress"]
    assert "(4 CPU)" in job["progress"]
    # The dashboard's own list says the same.
    jobs = connect(cluster.url)
    until(lambda: "behind first-" in jobs.entry(second).message, "the message of its entry")
    assert "behind first-" in jobs.entry(second).progress


def test_both_are_seen_in_the_dashboard(cluster: LocalCluster, tmp_path: Path) -> None:
    messages = {"first": "step ", "digits-clip": "waiting up to "}
    ids = {name: entry(name)["submission_id"] for name in messages}
    with Browser(tmp_path) as browser:

        def shown(text: str) -> bool:
            return bool(browser.value(f"document.body.innerText.includes({json.dumps(text)})"))

        def rows() -> dict[str, dict[str, str]]:
            """The table of the page by names of jobs, and of columns."""
            cells = "tr => [...tr.cells].map(cell => cell.innerText.trim())"
            table = browser.value(f"[...document.querySelectorAll('table tr')].map({cells})")
            heads, *lines = table or [[]]
            found = (dict(zip(heads, line, strict=False)) for line in lines)
            return {row["Name"]: row for row in found if row.get("Name")}

        def told(table: dict[str, dict[str, str]], name: str) -> bool:
            row = table[name]
            id_and_status = (row.get("Submission ID"), row.get("Status"))
            return id_and_status == (ids[name], "RUNNING") and row["Status message"].startswith(messages[name])

        browser.open(f"{cluster.url}/#/jobs")
        until(lambda: shown("Authentication Token Required"), "the question for the token")
        browser.write(cluster.token)
        browser.press("Enter")
        until(lambda: (table := rows()).keys() >= {*messages} and all(told(table, name) for name in messages), "both")

        browser.value(f"location.hash = '#/jobs/{ids['digits-clip']}'")
        until(lambda: shown("User-provided metadata"), "what is known of a job")
        until(lambda: shown(f'"run_directory": "{ROOT}/digits-clip"'), "its metadata")
        assert shown('"objective": "image_text"')


@pytest.mark.skipif(not INSTALLED, reason="Prometheus is not installed")
def test_prometheus_tells_how_far_it_is(cluster: LocalCluster) -> None:
    seen = Seen(cluster.prometheus)
    until(lambda: max(seen.values('ray_tandem_step{tandem_job="first"}'), default=0) > 0, "its steps")

    def of_ranks() -> set[tuple[str, str]]:
        return {
            (series["rank"], series["instance"])
            for series in seen.names("ray_tandem_step_seconds").get("ray_tandem_step_seconds_total", ())
        }

    until(lambda: len(of_ranks()) >= 2, "both ranks")  # nodes are asked one by one
    ranks, nodes = zip(*sorted(of_ranks()), strict=True)
    assert ranks == ("0", "1")
    assert len(set(nodes)) == 2, "each on a node of its own"
    # Ray names more, of which not all listen.
    until(lambda: seen.values("up").count(1.0) >= 3, "the nodes")


def test_a_job_that_is_stopped_at_once_makes_room(cluster: LocalCluster) -> None:
    assert "at once" in call("stop", "first", "--now")
    until(lambda: entry("first")["state"] == "interrupted", "its end")
    until(lambda: entry("digits-clip")["progress"].startswith("step"), "a step of the one behind it")


def test_a_job_is_stopped_with_a_commit_and_gone_on_with(cluster: LocalCluster) -> None:
    first = entry("digits-clip")["submission_id"]
    assert "with a commit" in call("stop", "digits-clip")
    until(lambda: entry("digits-clip")["state"] == "interrupted", "its end")
    run = ledger_of(ROOT, "digits-clip", S3(endpoint=cluster.s3_endpoint))
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
    log = call("logs", run.run.uri, "--attempt", "1", "--endpoint", cluster.s3_endpoint)
    assert "[a1 r0] rank 0 of attempt 1: process" in log
    assert "[a1 r1] rank 1 of attempt 1: process" in log


def test_a_finished_job_is_left_as_it_is(cluster: LocalCluster, spec: Spec) -> None:
    assert "is finished" in call("submit", *spec(f"training.steps={STEPS}"))
    until(lambda: entry("digits-clip")["state"] == "succeeded", "the cluster's word")


def test_the_cluster_is_found_by_its_own_address_too(cluster: LocalCluster) -> None:
    answer = tandem("list", "--address", cluster.gcs_address, "-o", "json")
    assert {job["name"] for job in json.loads(answer.stdout)} == {"first", "digits-clip"}
    wrong = tandem("list", "--address", cluster.gcs_address, env={"RAY_AUTH_TOKEN": "planted"})
    assert wrong.returncode == 2
    assert "does not take this token" in wrong.stderr
    assert "planted" not in wrong.stderr
