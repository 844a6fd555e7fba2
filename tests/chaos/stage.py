"""What a disturbed job runs on: a Ray cluster of several nodes on this machine, a run directory, and its driver."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from jobspecs.storage import S3
from orchestrator.ledger import Ledger
from tests.chaos.driver import Driver, Submitted, Typed
from tests.faulty_proxy import FaultyProxy
from tests.orchestrator.command import ledger_of, set_flags
from tests.orchestrator.conftest import EXAMPLE, TINY, overrides
from tests.ports import free_ports
from workers.run import committed_steps

NAME = "chaos"
PATIENCE_SECONDS = 600.0
"""For what comes within a minute on two quiet cores."""

JOB = (
    *TINY,
    f"name={NAME}",
    "data.lanes=16",
    "evaluations=[]",
    "training.optimizer.learning_rate=1e-4",  # with more, training itself makes much of what is rounded otherwise
    "checkpoint.every_steps=20",
    "cluster.workers={min: 1, max: 3}",
    "cluster.wait_seconds=60",
    "cluster.grow_every_seconds=1",
    "retry.max_failures_without_commit=50",
    "retry.hang_after_seconds=15",
    *(
        f"retry.{kind}={{retries: 50, delay_seconds: 0.2, max_delay_seconds: 2}}"
        for kind in ("data", "storage", "worker_lost", "node_lost", "preempted", "hang", "bug")
    ),
)
"""Overrides of the digits example: a job of some seconds that gives up only late."""


class Stage:
    """A cluster of a head and other nodes, and one job at a time on it. A context manager: nothing outlives it."""

    def __init__(self, data: Path | str, proxy: FaultyProxy | None = None, *, others: int = 2) -> None:
        """data: the digits, a folder. proxy: what the runs' directories are reached through, if they lie in S3.
        others: nodes beside the head; each has room for one rank, as the head has."""
        self.proxy = proxy
        self.steps = 0
        """Of the job."""
        self.draws = random.Random(0)
        self.as_job = False
        """Whether the driver is a job of Ray, and not a typed command."""
        self._data = data
        self._others = others
        self._driver: Driver | None = None

    def new_job(self, root: Path | str, seed: int, steps: int, *, as_job: bool = False) -> None:
        """The job is one of `steps` below `root`, a folder or a URI, from now on; what is drawn depends on the seed.

        What the one before has left behind, where it failed, is put right."""
        self._end_driver()
        for node in self.nodes[self._others :]:
            self.kill_node(node)
        for _ in range(self._others - len(self.nodes)):
            self.add_node()
        self.draws = random.Random(seed)
        self.steps = steps
        self.as_job = as_job
        job = (*JOB, f"training.steps={steps}")
        s3 = None
        if self.proxy is not None:
            self.proxy.end_outage()
            job += (f"storage.s3.endpoint={self.proxy.url}", "storage.s3.timeout_seconds=5")
            # What the job meets in the proxy is its own affair: who watches it comes by another way.
            s3 = S3(endpoint=f"http://{self.proxy.target}")
        self._arguments = ["run", str(EXAMPLE), *set_flags(overrides(self._data, root, *job))]
        self.ledger: Ledger = ledger_of(root, NAME, s3)

    def __enter__(self) -> Stage:
        from ray.cluster_utils import Cluster

        # A dashboard on a free port: another cluster on this machine may have Ray's own.
        head = {"num_cpus": 1, "include_dashboard": True, "dashboard_port": free_ports(1)}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(self._others):
            self.add_node()
        return self

    def __exit__(self, *_: object) -> None:
        self._end_driver()
        for node in [*self.cluster.worker_nodes, self.cluster.head_node]:
            self.kill_node(node)

    # --- the cluster ---

    @property
    def nodes(self) -> list[Any]:
        """The nodes beside the head, in the order of their start."""
        return sorted(self.cluster.worker_nodes, key=lambda node: node.node_id)

    def busy_node(self) -> Any:
        """One of them, with a rank if any has."""
        return self.draws.choice([node for node in self.nodes if self._workers_on(node)] or self.nodes)

    def add_node(self) -> None:
        """One more node with room for one rank."""
        self.cluster.add_node(num_cpus=1)

    def kill_node(self, node: Any) -> None:
        """SIGKILL for a node and all that runs on it."""
        workers = self._workers_on(node)
        self.cluster.remove_node(node, allow_graceful=False)
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()

    def _workers_on(self, node: Any) -> list[psutil.Process]:
        raylets = [info.process.pid for info in node.all_processes.get("raylet", [])]
        return [process for pid in raylets for process in descendants(pid) if is_train_worker(process)]

    def workers(self) -> list[psutil.Process]:
        """The processes that train, by number."""
        ours = [worker for node in [self.cluster.head_node, *self.nodes] for worker in self._workers_on(node)]
        return sorted(ours, key=lambda process: process.pid)

    # --- the driver ---

    def start_driver(self) -> None:
        """Types the command, or submits it."""
        if self.as_job:
            self._driver = Submitted(self.cluster.head_node, self._arguments)
        else:
            self._driver = Typed(self.cluster.address, self._arguments)

    @property
    def driver(self) -> Driver:
        """The command that was started last."""
        assert self._driver is not None, "start_driver() comes first"
        return self._driver

    def driver_ended(self) -> tuple[int | None, str]:
        """Waits for its end. Returns its exit code, None for a job that was killed, and its output."""
        return self.driver.ended(PATIENCE_SECONDS)

    def _end_driver(self) -> None:
        if self._driver is not None and not self._driver.has_ended():
            self._driver.kill()
            self.driver_ended()

    # --- the job ---

    def newest(self) -> dict[str, Any]:
        """The newest record of a step; empty without one."""
        return self.ledger.last_metrics() or {}

    def commits(self) -> list[int]:
        """Steps that are committed."""
        return committed_steps(self.ledger.storage, self.ledger.run)

    def attempts(self, since: float = 0.0) -> list[dict[str, Any]]:
        """The events of their starts, since a Unix time."""
        return self.events("attempt_started", since)

    def events(self, kind: str, since: float = 0.0) -> list[dict[str, Any]]:
        """Those of a kind, since a Unix time."""
        return [event for event in self.ledger.events() if event["event"] == kind and event["time"] > since]

    def wait(self, condition: Callable[[], bool], what: str) -> bool:
        """Waits until `condition` holds. Returns False where the command ended before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if self.driver.has_ended():
                return condition()
            assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS:g} s for {what}"
            time.sleep(0.2)
        return True

    def wait_for_training(self) -> bool:
        """Waits until a step is recorded that was done after the call. Returns False at the job's end."""
        now = time.time()
        return self.wait(lambda: self.newest().get("time", 0.0) > now, "a step")

    def wait_for_commit(self) -> bool:
        """Waits for a commit that is newer than those at the call. Returns False at the job's end."""
        before = max(self.commits(), default=0)
        return self.wait(lambda: max(self.commits(), default=0) > before, f"a commit after step {before}")


def descendants(pid: int) -> list[psutil.Process]:
    """What a process has started, and what that has."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def is_train_worker(process: psutil.Process) -> bool:
    """Whether a process of Ray trains."""
    try:
        return "RayTrainWorker" in " ".join(process.cmdline())
    except psutil.Error:
        return False
