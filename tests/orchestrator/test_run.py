"""The promise, through the whole of the system: a job is the same experiment whatever it runs on and
whatever fails on the way."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest

from jobspecs.errors import JobFailedError, UsageError
from jobspecs.job import JobSpec
from jobspecs.schedule import TaskResources
from jobspecs.storage import S3
from orchestrator import evaluation_task
from orchestrator.due import Batch
from orchestrator.evaluate import Began, Ended
from orchestrator.evaluate_alone import chosen, evaluate_alone
from orchestrator.find_checkpoint import find_checkpoint
from orchestrator.interrupt import Interrupt
from orchestrator.ledger import Ledger
from tests.chaos.stage import descendants, is_train_worker
from tests.orchestrator.command import (
    assert_same_experiment,
    kill_tree,
    ledger_of,
    metrics_of,
    set_flags,
    start_tandem,
    tandem,
)
from tests.orchestrator.conftest import EXAMPLE, TINY, digits_spec, drive, overrides
from tests.orchestrator.reference import reference
from tests.waiting import until
from workers.run import RunDirectory, committed_steps, read_parts
from workers.storage import Storage
from workers.train.pulse import Phase

pytestmark = pytest.mark.ray

LONG = (*TINY, "training.steps=240", "checkpoint.every_steps=40", "training.optimizer.learning_rate=2e-4")
"""A job that takes some seconds: time to interfere in."""
OFTEN = "checkpoint.every_steps=10"
"""For what is to follow on a commit, and come long before the last step."""


def train_workers() -> list[psutil.Process]:
    """The processes that train on the session's Ray; the machine may have others."""
    return [process for process in descendants(os.getpid()) if is_train_worker(process)]


@pytest.fixture(scope="module")
def from_s3(ray_cluster: None, s3_server: str, digits: Path) -> Ledger:
    """LONG with nothing in its way, from S3 and into S3, evaluation and all."""
    import boto3

    boto3.client("s3", endpoint_url=s3_server).create_bucket(Bucket="tandem-run")
    storage = Storage(S3(endpoint=s3_server))
    for path in digits.rglob("*.*"):
        storage.write(f"s3://tandem-run/digits/{path.relative_to(digits)}", path.read_bytes())
    endpoint = f"storage.s3.endpoint={s3_server}"
    drive(digits_spec("s3://tandem-run/digits", "s3://tandem-run/runs", *LONG, endpoint))
    return ledger_of("s3://tandem-run/runs", "digits-clip", S3(endpoint=s3_server))


@pytest.fixture(scope="module")
def undisturbed(from_s3: Ledger, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The metrics of LONG on one process that nothing is around."""
    return list(reference(from_s3, tmp_path_factory.mktemp("undisturbed")).metrics())


def test_tars_and_run_directory_on_s3(from_s3: Ledger, undisturbed: list[dict]) -> None:
    status = from_s3.status()
    assert status.state == "succeeded"
    assert status.latest_checkpoint == "s3://tandem-run/runs/digits-clip/checkpoints/step-00000240"
    assert status.evaluations[0]["samples"] == 360
    assert_same_experiment(undisturbed, list(from_s3.metrics()), 1e-4)
    endpoint = from_s3.storage._s3.client.meta.endpoint_url
    answer = tandem("status", "s3://tandem-run/runs/digits-clip", "--endpoint", endpoint, "-o", "json")
    assert '"state": "succeeded"' in answer.stdout


def test_the_digits_job_is_the_same_on_1_and_3_workers(ray_cluster: None, digits: Path, tmp_path: Path) -> None:
    """Steps of the example itself in fp32: equal digests, and losses equal within 1e-4."""
    assert drive(digits_spec(digits, tmp_path, "cluster.workers=3", "training.steps=20", "evaluations=[]")).step == 20
    ledger = ledger_of(tmp_path, "digits-clip")
    three, one = list(ledger.metrics()), list(reference(ledger, tmp_path / "one").metrics())
    assert [record["step"] for record in three] == list(range(1, 21))
    assert [{record["world_size"] for record in records} for records in (three, one)] == [{3}, {1}]
    assert_same_experiment(one, three, tolerance=1e-4)


def test_ctrl_c_on_2_workers_and_a_killed_process_tree_on_3_are_the_same_experiment(
    undisturbed: list[dict], digits: Path, tmp_path: Path
) -> None:
    arguments = ["run", str(EXAMPLE), *set_flags(overrides(digits, tmp_path, *LONG, OFTEN))]
    ledger = ledger_of(tmp_path, "digits-clip")

    process = start_tandem(*arguments)
    until(lambda: bool(committed_steps(ledger.storage, ledger.run)), "the first commit")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 130, output
    status = ledger.status()
    assert status.state == "interrupted"
    saved = committed_steps(ledger.storage, ledger.run)[-1]
    assert saved == status.step < 240

    process = start_tandem(*arguments, "--workers", "3")
    until(lambda: committed_steps(ledger.storage, ledger.run)[-1] > saved, "the next commit")
    kill_tree(process.pid)
    process.communicate()
    committed = committed_steps(ledger.storage, ledger.run)[-1]
    assert committed < 240
    assert ledger.status().state == "lost"

    again = tandem(*arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    attempts = [event for event in ledger.events() if event["event"] == "attempt_started"]
    assert [(event["step"], event["world_size"]) for event in attempts] == [(0, 2), (saved, 3), (committed, 2)]
    assert_same_experiment(undisturbed, metrics_of(tmp_path, "digits-clip"), tolerance=1e-4)
    assert "acc@1" in again.stdout

    finished = tandem(*arguments)
    assert finished.returncode == 0
    assert "is finished" in finished.stdout
    assert len([event for event in ledger.events() if event["event"] == "attempt_started"]) == 3


def test_a_stopped_worker_hangs_is_named_and_ended_and_the_job_goes_on(
    undisturbed: list[dict], digits: Path, tmp_path: Path
) -> None:
    spec = digits_spec(
        digits, tmp_path, *LONG, OFTEN, "evaluations=[]", "retry.hang.delay_seconds=0", "retry.hang_after_seconds=40"
    )
    ledger = ledger_of(tmp_path, "digits-clip")
    stopped: list[psutil.Process] = []

    def stop_one() -> None:
        until(lambda: bool(committed_steps(ledger.storage, ledger.run)), "the first commit")
        stopped.append(max(train_workers(), key=lambda process: process.pid))
        stopped[0].suspend()

    stopper = threading.Thread(target=stop_one)
    stopper.start()
    status = drive(spec)
    stopper.join()

    assert status.state == "succeeded"
    assert status.attempt == 2
    (failed,) = [event for event in ledger.events() if event["event"] == "attempt_failed"]
    # Ranks beat every two seconds, ten steps may take less: its last beat may be of the time before its first step.
    said = re.match(
        r"rank (\d) gave no sign of life for \d+ s; its last was in (\w+).*; "
        r"rank (\d) waits in (gather|update) of step (\d+)\. ",
        failed["cause"],
    )
    assert said, failed["cause"]
    assert failed["kind"] == "hang"
    rank = int(said[1])
    assert said[2] in get_args(Phase)
    assert int(said[3]) == 1 - rank
    assert failed["step"] <= int(said[5]) <= 240
    assert not stopped[0].is_running()
    # The other one waits for it in a collective.
    (stacks,) = ledger.storage.list(f"{ledger.run.uri}/stacks")
    assert stacks.uri == ledger.run.stacks(1, 1 - rank)
    assert "workers/train/loop.py" in ledger.storage.read(stacks.uri).decode()
    assert_same_experiment(undisturbed, metrics_of(tmp_path, "digits-clip"), tolerance=1e-4)


def test_ray_leaves_sigterm_to_us() -> None:
    """Its own handler would end the process without a checkpoint."""
    program = (
        "import signal; from jobspecs.cluster import Cluster; from orchestrator.ray_cluster import start_ray\n"
        "handler = lambda number, frame: None\n"
        "signal.signal(signal.SIGTERM, handler)\n"
        "start_ray(Cluster())\n"
        "print(signal.getsignal(signal.SIGTERM) is handler)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "True"


def test_a_job_that_fails_says_why_and_what_is_kept(ray_cluster: None, digits: Path, tmp_path: Path) -> None:
    """Every sample lacks its text: past data.max_bad_fraction."""
    more = ("training.steps=40", "retry.max_attempts=1", "cluster.workers=1", "data.text.column=nothing")
    with pytest.raises(JobFailedError, match=r"1 of 1 attempts failed \(retry\.max_attempts\)") as failed:
        drive(digits_spec(digits, tmp_path, *TINY, *more))
    assert "samples so far could not be used (missing_column " in str(failed.value)
    assert "Nothing is committed yet; mend the cause" in str(failed.value)
    ledger = ledger_of(tmp_path, "digits-clip")
    assert ledger.status().state == "failed"
    assert [failure["attempt"] for failure in ledger.status().failures] == [1]
    bad = list(read_parts(ledger.storage, ledger.run.bad_samples))
    assert {sample["cause"] for sample in bad} == {"missing_column"}
    assert all(sample["uri"].endswith(".tar") and sample["key"] for sample in bad)
    report = (tmp_path / "digits-clip" / "report.html").read_text()
    assert "samples so far could not be used" in report
    assert '<span class="state bad">failed</span>' in report


def test_evaluations_run_beside_training(ray_cluster: None, digits: Path, tmp_path: Path) -> None:
    """Each of three checkpoints is scored while steps are made; then the job is interrupted, and them alone with it."""
    more = ("training.steps=100000", "checkpoint.every_steps=50", "evaluations.0.every_checkpoints=3")
    spec = digits_spec(digits, tmp_path, *TINY, *more, "cluster.workers=2")
    ledger, interrupt = ledger_of(tmp_path, "digits-clip"), Interrupt()

    def three() -> bool:
        return sum(event["event"] == "evaluation_finished" for event in ledger.events()) >= 3

    def interrupt_after_three() -> None:
        try:
            until(three, "three results")
        finally:
            interrupt.request()

    threading.Thread(target=interrupt_after_three, daemon=True).start()
    status = drive(spec, interrupt)
    assert (status.state, status.attempt) == ("interrupted", 1)

    events = ledger.events()
    steps = [record["time"] for record in ledger.metrics()]
    finished = {event["step"]: event for event in events if event["event"] == "evaluation_finished"}
    assert {event["step"] for event in events if event["event"] == "evaluation_started"} >= finished.keys()
    assert len(finished) >= 3
    for step in sorted(finished)[:3]:
        # The event follows on the result at the driver's next look.
        result = ledger.run.evaluation(step, "held-out-digits")
        end = Path(result.removeprefix("file://")).stat().st_mtime
        made = sum(end - finished[step]["seconds"] < time < end for time in steps)
        assert made >= 2, f"{made} steps while step {step} was scored"
    assert not any(event["event"] == "evaluation_failed" for event in events)

    # The results, and one more of the newest checkpoint, by hand.
    uri = status.run_directory
    table = tandem("results", uri, "-o", "csv").stdout.splitlines()
    results = ledger.results()  # of one that has just ended, there may be no event
    assert len(table) == 1 + len(results)
    assert {result["step"] for result in results} >= finished.keys()
    assert table[0].startswith("step,evaluation,kind,main,chance")
    found = find_checkpoint(uri)
    assert status.latest_checkpoint == found.uri
    (result,) = evaluate_alone(found, chosen(found, None, ()), keep=True, tell=lambda message: None)
    assert (result["step"], result["samples"]) == (found.manifest.step, 360)
    assert result in ledger.results()
    with pytest.raises(UsageError, match=r"--only: there is no evaluation 'x'\. There are: held-out-digits\."):
        chosen(found, None, ("x",))
    pairs = tmp_path / "pairs.yaml"
    pairs.write_text(EXAMPLE.read_text().replace("kind: zero_shot", "kind: retrieval").split("    class_names")[0])
    assert [each.kind for each in chosen(found, pairs, ())] == ["retrieval"]


def test_an_evaluation_that_fails_leaves_the_job_succeeded_and_says_why(
    ray_cluster: None, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One runs out of memory, one takes its process with it, one lacks its data."""

    def doomed(spec: JobSpec, run: RunDirectory, batch: Batch, resources: TaskResources) -> Iterator[Any]:
        import torch

        from orchestrator.evaluate import evaluate
        from workers.evaluate import KINDS

        retrieval = KINDS["retrieval"]

        def takes_more_than_there_is(*_: Any) -> Any:
            unlimited = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (1 << 30), unlimited[1]))
            try:
                return torch.ones(4 << 30, dtype=torch.uint8)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, unlimited)

        for news in evaluate(spec, run, batch.step, batch.evaluations):
            yield news
            match news:
                case Began("hungry"):
                    KINDS["retrieval"] = takes_more_than_there_is
                case Ended("hungry"):
                    KINDS["retrieval"] = retrieval
                case Began("dies"):
                    # What a process tells in its last moments may not arrive, and the wrong one would be to blame.
                    until(lambda: "dies" in told("evaluation_started"), "the driver's note of it")
                    os.kill(os.getpid(), signal.SIGKILL)

    def told(kind: str) -> dict[str, dict[str, Any]]:
        """The events of the kind, by evaluation."""
        events = ledger_of(tmp_path, "digits-clip").events()
        return {event["evaluation"]: event for event in events if event["event"] == kind}

    more = (*TINY, "training.steps=2", "cluster.workers=1")
    alone = [
        f"{{kind: retrieval, name: {name}, retries: 0, data: {{urls: ['{digits}/test/*.tar']}}}}"
        for name in ("hungry", "dies")
    ]
    monkeypatch.setattr(evaluation_task, "_evaluate", doomed)
    spec = digits_spec(digits, tmp_path, *more, "evaluations.0.label_field=nothing")
    evaluations = digits_spec(digits, tmp_path, *more, f"evaluations=[{', '.join(alone)}]").evaluations
    status = drive(spec.model_copy(update={"evaluations": (*evaluations, *spec.evaluations)}))
    assert status.state == "succeeded"
    failed = told("evaluation_failed")
    assert "can't allocate memory" in failed["hungry"]["reason"]
    assert failed["dies"]["reason"] == "its process died of a signal; the node's kernel log tells when memory ran out"
    assert "has no field 'nothing'" in failed["held-out-digits"]["reason"]
    assert {each["evaluation"]: each for each in status.evaluations} == {
        name: {"step": 2, "evaluation": name, "failed": failed[name]["reason"]}
        for name in ("hungry", "dies", "held-out-digits")
    }

    # Mended, it is done again; the training is not.
    mended = drive(digits_spec(digits, tmp_path, *more))
    assert [result["main"] for result in mended.evaluations if "main" in result] == ["acc@1"]
    assert mended.attempt == 1
