"""What is done to a job, each with a name: `FAULTS["kill_worker"](stage)`.

Each waits until the job is in a state to be disturbed, disturbs it, and brings the command and the cluster back so
far that the job can end: who kills the driver starts it again, who takes a node away adds another one. Each returns
what it did in words, or None where the job was over first.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.chaos.stage import Stage, kill_tree
from workers.storage import join

Fault = Callable[[Stage], str | None]

OUTAGE_SECONDS = 6.0


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
    attempt = stage.newest()["attempt"]
    command = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", stage.cluster.address]
    command += ["--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "spot instance", "--deadline-remaining-seconds", "60"]
    subprocess.run(command, check=True, capture_output=True)
    stage.wait(lambda: stage.newest().get("attempt", 0) > attempt, f"an attempt after {attempt}")
    stage.kill_node(node)
    stage.add_node()
    return "drained a node, took it away, added one"


def shrink(stage: Stage) -> str | None:
    """A node dies and is not replaced before the job has gone on without it."""
    if not stage.wait_for_training():
        return None
    stage.kill_node(stage.busy_node())
    went_on = stage.wait_for_training()
    stage.add_node()
    return "took a node away, added one later" if went_on else None


def kill_driver(stage: Stage) -> str | None:
    """The command's process dies; it is typed again."""
    if not stage.wait_for_training():
        return None
    kill_tree(stage.driver.pid)
    stage.driver_ended()
    stage.start_driver()
    return "killed the driver, started it again"


def interrupt_driver(stage: Stage) -> str | None:
    """SIGTERM: the job saves and ends; it is typed again."""
    if not stage.wait_for_training():
        return None
    stage.driver.send_signal(signal.SIGTERM)
    output = stage.driver_ended()
    if stage.driver.returncode == 0:
        return None
    assert stage.driver.returncode == 130, output
    stage.start_driver()
    return "interrupted the driver, started it again"


def damage_checkpoint(stage: Stage) -> str | None:
    """A file of the newest checkpoint is changed, cut or gone, and a rank dies, so that it is needed."""
    if not stage.wait_for_commit():
        return None
    step = stage.commits()[-1]
    storage, folder = stage.ledger.storage, stage.ledger.run.checkpoint(step)
    uri = stage.draws.choice([info.uri for info in storage.list(folder)])
    content = storage.read(uri)
    how = stage.draws.choice(["changed", "cut", "deleted"])
    if how == "deleted":
        storage.delete(uri)
    elif how == "cut":
        storage.write(uri, content[: stage.draws.randrange(len(content))])
    else:
        place = stage.draws.randrange(len(content))
        storage.write(uri, content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
    _signal_any(stage, signal.SIGKILL)
    return f"{how}: {uri.removeprefix(join(stage.ledger.run.uri, ''))}; killed a worker"


def storage_outage(stage: Stage) -> str | None:
    """For some seconds the store answers nothing but errors, refuses connections, is slow, or is full."""
    assert stage.proxy is not None, "a fault of jobs in object storage"
    if not stage.wait_for_training():
        return None
    kind = stage.draws.choice(["unavailable", "refused", "slow", "full"])
    stage.proxy.outage = kind
    time.sleep(OUTAGE_SECONDS)
    stage.proxy.outage = None
    return f"storage {kind} for {OUTAGE_SECONDS:g} s"


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        kill_worker,
        stop_worker,
        kill_node,
        drain_node,
        shrink,
        kill_driver,
        interrupt_driver,
        damage_checkpoint,
    )
}
"""Those that need no object storage."""

S3_FAULTS: dict[str, Fault] = {**FAULTS, storage_outage.__name__: storage_outage}
"""All of them."""


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
