"""What is done to a job, each with a name: `FAULTS["kill_worker"](stage)`.

Each waits until the job is in a state to be disturbed, disturbs it, and brings the driver and the cluster back so far
that the job can end: who kills the driver starts it again, who takes a node away adds another one. Where a fault is
aimed at something, it also checks that this was hit. Each returns what it did in words, or None where the job was over
first. Those of the storage are in `storage_faults.py`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.stage import Stage

Fault = Callable[[Stage], str | None]


def kill_worker(stage: Stage) -> str | None:
    """A rank's process dies, in training or while its attempt starts."""
    if stage.draws.random() < 0.75 and not stage.wait_for_training():
        return None
    return _signal_any(stage, signal.SIGKILL)


def stop_worker(stage: Stage) -> str | None:
    """A rank's process stands still, and does not die."""
    return _signal_any(stage, signal.SIGSTOP) if stage.wait_for_training() else None


def kill_node(stage: Stage) -> str | None:
    """A node dies with all that runs on it; another one comes."""
    if not stage.wait_for_training():
        return None
    node = stage.busy_node()
    stage.kill_node(node)
    stage.add_node()
    return "killed a node, added one"


def drain_node(stage: Stage) -> str | None:
    """A node is announced to be taken away, and is, half a minute later or when the job has left it."""
    if not stage.wait_for_training():
        return None
    node = stage.busy_node()
    began = time.time()
    command = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", stage.cluster.address]
    command += ["--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "spot instance", "--deadline-remaining-seconds", "60"]
    subprocess.run(command, check=True, capture_output=True)
    stage.wait(lambda: bool(stage.attempts(began)), "the next attempt")
    stage.kill_node(node)
    stage.add_node()
    return "drained a node, took it away, added one"


def shrink(stage: Stage) -> str | None:
    """A node dies and is not replaced before the job has gone on without it, on fewer workers."""
    smaller = _shrunk(stage)
    return None if smaller is None else f"took a node away, went on with {smaller['world_size']} workers, added one"


def grow(stage: Stage) -> str | None:
    """As `shrink`; then the job grows at a commit, onto the node that came."""
    smaller = _shrunk(stage)
    if smaller is None:
        return None
    since = smaller["time"]
    if not stage.wait(lambda: bool(stage.attempts(since)), "the job to grow"):
        return None
    asked, ended, larger = (
        stage.events(kind, since)[0] for kind in ("stop_requested", "attempt_ended", "attempt_started")
    )
    assert asked["reason"] == ended["reason"] == "grow", (asked, ended)
    assert larger["world_size"] == asked["world_size"] > smaller["world_size"], (asked, smaller, larger)
    assert larger["step"] == ended["step"], f"it did not go on from where it had ended: {ended}, {larger}"
    return f"took a node away, added one; grew to {larger['world_size']} workers at step {larger['step']}"


def _shrunk(stage: Stage) -> dict[str, Any] | None:
    """Takes a node away, and adds one when the job has gone on without it. Returns that attempt's start; None at the
    job's end."""
    # After another fault it may still have to grow: with room for more it would not shrink.
    room = 1 + len(stage.nodes)
    if not stage.wait_for_training() or not stage.wait(
        lambda: stage.newest()["world_size"] == room, f"{room} workers, on all nodes"
    ):
        return None
    began = time.time()
    stage.kill_node(stage.busy_node())
    went_on = stage.wait(lambda: bool(stage.attempts(began)), "an attempt without the node") and (
        stage.wait_for_training()
    )
    smaller = stage.attempts(began)[-1:]
    stage.add_node()
    if not went_on:
        return None
    assert smaller[0]["world_size"] < room, f"{smaller[0]}, on {room} nodes less one"
    return smaller[0]


def kill_driver(stage: Stage) -> str | None:
    """The driver's processes die; it is started again."""
    if not stage.wait_for_training():
        return None
    stage.driver.kill()
    stage.driver_ended()
    stage.start_driver()
    return "killed the driver, started it again"


def interrupt_driver(stage: Stage) -> str | None:
    """SIGTERM: the job saves and ends; it is started again."""
    if not stage.wait_for_training():
        return None
    stage.driver.interrupt()
    code, output = stage.driver_ended()
    if code == 0:
        return None
    # A job is killed where it does not end within 3 s.
    assert code == 130 or stage.as_job, output
    stage.start_driver()
    return f"interrupted the driver, which ended with {code}; started it again"


def kill_job(stage: Stage) -> str | None:
    """`kill_driver` where it is a job of Ray: the supervisor's process tree dies, the job is submitted again."""
    assert stage.as_job
    return kill_driver(stage)


def stop_job(stage: Stage) -> str | None:
    """`interrupt_driver` where it is a job of Ray, as `ray job stop` does; it is submitted again."""
    assert stage.as_job
    return interrupt_driver(stage)


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        kill_worker,
        stop_worker,
        kill_node,
        drain_node,
        shrink,
        grow,
        kill_driver,
        interrupt_driver,
        kill_job,
        stop_job,
    )
}

JOB_FAULTS = frozenset({"kill_job", "stop_job"})
"""Those for which the driver has to be a job of Ray."""


def _signal_any(stage: Stage, number: signal.Signals) -> str | None:
    if not stage.wait(lambda: bool(stage.workers()), "a worker"):
        return None
    workers = stage.workers()
    if not workers:
        return None
    chosen = stage.draws.randrange(len(workers))
    try:
        workers[chosen].send_signal(number)
    except psutil.NoSuchProcess:
        return "a worker was gone already"
    return f"{number.name} to worker {chosen} of {len(workers)}"
