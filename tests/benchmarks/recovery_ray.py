"""How long a job stands still for a killed worker, under Tandem and under Ray Train's own restart.

    tandem      the driver, as `tandem run` has it: a failed attempt, another one from the newest good commit
    ray_train   TorchTrainer with FailureConfig(max_failures=…): the same worker group restarted, with a train function
                that claims an attempt and goes on from the newest good commit of the run directory itself

Both train the same tiny digits job with the same loop on two workers of one Ray. When it has done steps after a commit,
one worker gets SIGKILL; when the next attempt has done a step, the job is asked to stop. A thread on rank 0 looks every
20 ms how far the loop is, and writes it down; that steps are done is in the run's metrics, to the moment.
"""

from __future__ import annotations

import functools
import io
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import ray.train
import torch.distributed as dist
from ray.train.torch import TorchConfig, TorchTrainer
from rich.console import Console

import orchestrator.rank
from jobspecs.cluster import Cluster
from orchestrator.checkpoints import newest_good
from orchestrator.driver import Driver
from orchestrator.failure import Kind
from orchestrator.interrupt import Interrupt
from orchestrator.ledger import Ledger
from orchestrator.prepare import Prepared, prepare
from orchestrator.ray_cluster import resources, start_ray
from orchestrator.views.lines import LinesView
from tests.benchmarks.recovery_timeline import Timeline, beginnings
from tests.chaos.stage import descendants, is_train_worker
from tests.orchestrator.conftest import TINY, digits_spec
from workers.data.demo import write_demo
from workers.run import committed_steps, read_parts
from workers.train.fence import attempts, claim_attempt
from workers.train.loop import train
from workers.train.pulse import pulse
from workers.train.task import Outcome, TrainTask

WORKERS = 2
LOOK_SECONDS = 0.02
PATIENCE_SECONDS = 240.0
"""For what should come within some 20 s on two quiet cores."""
JOB = (
    *TINY,
    f"cluster.workers={WORKERS}",
    "training.steps=100000",  # it never gets there
    "training.optimizer.learning_rate=2e-4",
    "checkpoint.every_steps=20",
    "evaluations=[]",
    "retry.worker_lost.delay_seconds=0",
)
CONTESTANTS = ("tandem", "ray_train")


def measure_recovery(folder: Path, repetitions: int) -> dict[str, list[Timeline]]:
    """A timeline of each repetition, by contestant; they take turns in coming first. folder: for data and runs."""
    write_demo("digits", folder / "digits")
    start_ray(Cluster(workers=WORKERS))
    timelines: dict[str, list[Timeline]] = {name: [] for name in CONTESTANTS}
    try:
        for number in range(repetitions):
            for name in CONTESTANTS[:: -1 if number % 2 else 1]:
                spec = digits_spec(folder / "digits", folder / "runs", *JOB, f"name={name}-{number}")
                told = folder / "told" / spec.name
                told.mkdir(parents=True)
                timelines[name].append(_RUN[name](prepare(spec), told))
    finally:
        ray.shutdown()
    return timelines


# --- the contestants -----------------------------------------------------------------------------------


def run_tandem(job: Prepared, told: Path) -> Timeline:
    """The driver's worker is replaced by one that also tells."""
    driver = Driver(job, LinesView(Console(file=io.StringIO())), Interrupt())
    with mock.patch.object(orchestrator.rank, "run_rank", functools.partial(_tandem_worker, told)):
        killed = _disturbed(job, driver.run)
    events = Ledger(job.storage, job.run).events()
    asked = next(event["time"] for event in events if event["event"] == "attempt_started")
    (failure,) = [event for event in events if event["event"] == "attempt_failed"]
    assert failure["kind"] == Kind.WORKER_LOST, failure
    return _timeline(job, told, asked, killed, failure["time"])


def _tandem_worker(told: Path, config: dict[str, Any]) -> Outcome:
    _start_telling(told)
    return orchestrator.rank.run_rank(config)  # the module's own: it is replaced in the driver's process alone


def run_ray_train(job: Prepared, told: Path) -> Timeline:
    """In a run directory as Tandem's driver lays it out."""
    Driver(job, LinesView(Console(file=io.StringIO())), Interrupt())._open()
    cluster = job.spec.cluster
    trainer = TorchTrainer(
        functools.partial(_ray_worker, told),
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend=cluster.backend, timeout_s=cluster.collective_timeout_seconds),
        scaling_config=ray.train.ScalingConfig(num_workers=WORKERS, resources_per_worker=resources(cluster)),
        run_config=ray.train.RunConfig(
            name=job.spec.name,
            storage_path=str(told / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=3),
            callbacks=[_Noticed(told / "noticed")],
        ),
    )
    asked = time.time()
    killed = _disturbed(job, trainer.fit)
    return _timeline(job, told, asked, killed, float((told / "noticed").read_text()))


def _ray_worker(told: Path, config: dict[str, Any]) -> Outcome:
    """What a user of Ray Train would write around the loop: rank 0 decides where the group goes on from."""
    _start_telling(told)
    job: Prepared = config["job"]
    where: list[Any] = [None]
    if dist.get_rank() == 0:
        good = newest_good(job.storage, job.run, job.fixed)
        number = max(attempts(job.storage, job.run), default=0) + 1
        claim_attempt(job.storage, job.run, number, "bench-recovery")
        where = [(number, good.uri)]
    dist.broadcast_object_list(where, src=0)
    number, uri = where[0]
    return train(TrainTask(job.spec, job.fixed, job.run, number, uri))


@dataclass
class _Noticed(ray.train.UserCallback):
    """Writes down when Ray Train's controller sees that a worker is gone."""

    file: Path

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        self.file.write_text(str(time.time()))


_RUN = {"tandem": run_tandem, "ray_train": run_ray_train}


# --- what is done to them, and what they tell ----------------------------------------------------------


def _disturbed(job: Prepared, work: Callable[[], object]) -> float:
    """Runs `work`, kills a worker of it, and stops it when it trains again. Returns the moment of the kill."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ledger = Ledger(job.storage, job.run)

    def wait(condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if errors:
                raise errors[0]
            assert thread.is_alive(), f"the job ended before {what}"
            assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS:g} s for {what}"
            time.sleep(0.1)

    def newest() -> dict[str, Any]:
        return ledger.last_metrics() or {"attempt": 0, "step": 0}

    wait(lambda: bool(commits := committed_steps(job.storage, job.run)) and newest()["step"] > commits[0], "a commit")
    attempt = newest()["attempt"]
    victim = max((one for one in descendants(os.getpid()) if is_train_worker(one)), key=lambda one: one.pid)
    killed = time.time()
    victim.kill()
    wait(lambda: newest()["attempt"] > attempt, "a step of the next attempt")
    job.storage.write(job.run.stop, b"interrupted")
    thread.join(PATIENCE_SECONDS)
    if errors:
        raise errors[0]
    assert not thread.is_alive(), "the job did not stop"
    return killed


def _start_telling(folder: Path) -> None:
    """On rank 0: a thread writes (begun, loaded) of this attempt to a file in `folder`."""
    if dist.get_rank() == 0:
        threading.Thread(target=_tell, args=(folder,), daemon=True).start()


def _tell(folder: Path) -> None:
    begun = None
    while True:
        now, moment = time.time(), pulse.read()
        if begun is None and moment.moves:
            begun = now
        if moment.step:  # the loop waits for its first batch, or is beyond
            (folder / f"{os.getpid()}.json").write_text(json.dumps([begun, now]))
            return
        time.sleep(LOOK_SECONDS)


def _timeline(job: Prepared, told: Path, asked: float, killed: float, noticed: float) -> Timeline:
    moments = [tuple(json.loads(file.read_text())) for file in told.glob("*.json")]
    first, second = beginnings(moments, read_parts(job.storage, job.run.metrics))
    return Timeline(asked, first, killed, noticed, second)
