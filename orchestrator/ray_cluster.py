"""Ray: a local one for `tandem run`, the cluster's own where this process runs on one."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from jobspecs.cluster import Cluster
from jobspecs.errors import UsageError
from jobspecs.evaluation import Evaluation
from jobspecs.job import JobSpec
from orchestrator.cluster_address import ADDRESS_VARIABLES
from orchestrator.elastic import Node, room
from orchestrator.environment import variables
from orchestrator.evaluation_task import reserved

# Ray reads these when it is imported. Usage reports are sent only where the user asks for them.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Workers stay in the driver's folder: relative paths mean the same everywhere.
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
# The driver looks for nodes that are taken away. An actor of Ray Train's own for it would start ranks anew unasked.
os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
# A minute, Ray Train's default, is short for processes that import torch on a busy node.
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")

_DASHBOARD_VARIABLE = ADDRESS_VARIABLES[0]
ANSWER_SECONDS = 10.0
"""Patience with Ray: with a call of an actor, with short tasks."""


def start_ray(cluster: Cluster, evaluations: Sequence[Evaluation] = ()) -> None:
    """Connects to the cluster that `RAY_ADDRESS` names, else starts Ray on this machine. Once a process.

    evaluations: those that will want room beside the workers. Whoever does not know them, such as a scan of data before
    the job, leaves room for one that reserves what a worker does.

    Raises UsageError: the cluster is not there.
    """
    import ray

    if ray.is_initialized():
        return
    # Ray warns that the cluster which it starts asks for a token. It does, and finds it by itself.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    with _our_signals():
        address = os.environ.get("RAY_ADDRESS")
        if address:
            _join(address)
        else:
            # Ray's CPUs are what it counts, not cores: on one machine more workers than cores are slower but the same
            # experiment, and an evaluation has room beside all of them.
            beside = [reserved(None, cluster), *(reserved(each.resources, cluster) for each in evaluations)]
            most = cluster.max_workers * cluster.cpus_per_worker + max(task.cpus for task in beside)
            cpus = max(os.cpu_count() or 1, most)
            # "local" starts a Ray of its own beside any other on the machine.
            ray.init(address="local", num_cpus=cpus, log_to_driver=False, logging_level=logging.WARNING)


def _join(address: str) -> None:
    """Connects to a cluster, as one of its drivers. Raises UsageError."""
    import ray
    from ray.exceptions import AuthenticationError

    if address.startswith(("http://", "https://")):
        raise UsageError(
            f"RAY_ADDRESS={address} is a dashboard, and a driver needs the cluster's own host:port. Send the job there "
            "with `tandem submit`, or unset RAY_ADDRESS to run on this machine."
        )
    try:
        _knock(address)
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    except AuthenticationError as error:
        raise UsageError(
            f"the cluster at RAY_ADDRESS={address} does not let this process in without its token. Set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH."
        ) from error
    except OSError as error:  # ConnectionError, Ray's own too, is one
        raise UsageError(
            f"there is no Ray cluster at RAY_ADDRESS={address}. Start it, correct the address, or unset it "
            "to run on this machine."
        ) from error
    except RuntimeError as error:
        if "Version mismatch" not in str(error):
            raise
        told = " ".join(str(error).split())
        raise UsageError(
            f"the cluster at RAY_ADDRESS={address} has another Ray or Python than this process, and a driver needs the "
            f"same. Send the job there with `tandem submit`, or install what it has. {told}"
        ) from error


def _knock(address: str) -> None:
    """Raises OSError when nobody listens at `host:port`: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=5).close()


@contextlib.contextmanager
def own_dashboard() -> Iterator[None]:
    """Ray Train asks a dashboard whether its controller lives. Left to itself, that of the Ray that was started last on
    the machine: where it is another one or dead, each attempt ends 12 s late. In this context it asks that of the Ray
    that this process is connected to. Not for longer: `tandem submit` takes the same variable for the user's word.

    Ray has no public call for either name. Where a later version lacks one, attempts may end late.
    """
    import ray

    find = getattr(ray._private.worker, "get_dashboard_url", None)
    url = find() if find is not None and ray.is_initialized() else None
    if not url:
        yield
        return
    propagated: set[str] = set()
    with contextlib.suppress(ImportError):
        from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

        propagated = ENV_VARS_TO_PROPAGATE
    is_new = _DASHBOARD_VARIABLE not in propagated
    propagated.add(_DASHBOARD_VARIABLE)
    try:
        with variables({_DASHBOARD_VARIABLE: f"http://{url}"}):
            yield
    finally:
        if is_new:
            propagated.discard(_DASHBOARD_VARIABLE)


def check_resources(cluster: Cluster) -> None:
    """Raises UsageError when this machine has less than the fewest workers ask for: nothing will come to it. On a
    cluster that may grow, a job waits."""
    import ray

    if os.environ.get("RAY_ADDRESS"):
        return
    there = ray.cluster_resources()
    wanted = {
        "CPU": cluster.min_workers * cluster.cpus_per_worker,
        "GPU": cluster.min_workers * cluster.gpus_per_worker,
    }
    for kind, count in wanted.items():
        if count > there.get(kind, 0):
            raise UsageError(
                f"{cluster.min_workers} workers need {count} {kind}s, the cluster has {there.get(kind, 0):g}. Lower "
                f"cluster.workers or cluster.{kind.lower()}s_per_worker, or add nodes."
            )


def check_evaluations(spec: JobSpec) -> None:
    """Raises UsageError when an evaluation asks for more than this machine has: it would wait forever."""
    import ray

    if os.environ.get("RAY_ADDRESS"):
        return
    there = ray.cluster_resources()
    for number, evaluation in enumerate(spec.evaluations):
        if evaluation.resources is None:
            continue
        for kind, count in (("CPU", evaluation.resources.cpus), ("GPU", evaluation.resources.gpus)):
            if count > there.get(kind, 0):
                raise UsageError(
                    f"evaluation {evaluation.name!r} asks for {count} {kind}s, the machine has {there.get(kind, 0):g}. "
                    f"Lower evaluations.{number}.resources.{kind.lower()}s."
                )


def resources(cluster: Cluster) -> dict[str, float]:
    """What one worker reserves."""
    gpus = {"GPU": float(cluster.gpus_per_worker)} if cluster.gpus_per_worker else {}
    return {"CPU": float(cluster.cpus_per_worker), **gpus}


def nodes() -> tuple[Node, ...]:
    """The nodes that are alive."""
    import ray

    draining = draining_nodes()
    return tuple(
        Node(
            id=node["NodeID"],
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            draining=node["NodeID"] in draining,
        )
        for node in ray.nodes()
        if node["Alive"]
    )


def answering() -> set[str]:
    """Ray's ids of the nodes that take a connection now. That a node is gone Ray itself may learn seconds later."""
    import ray

    def answers(node: dict[str, Any]) -> bool:
        try:
            _knock(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}")
        except OSError:
            return False
        return True

    alive = [node for node in ray.nodes() if node["Alive"]]
    with ThreadPoolExecutor(max_workers=32) as threads:
        return {node["NodeID"] for node, there in zip(alive, threads.map(answers, alive), strict=True) if there}


def draining_nodes() -> set[str]:
    """Ray's ids of the nodes that are going to be taken away: preempted, or no longer needed by the autoscaler.

    Ray has no public call for it. Where a later version has none at all, no node is known to be going, and one that
    goes is met as a node that was lost.
    """
    import ray

    ask = getattr(ray._private.state.state, "get_draining_nodes", dict)
    return set(ask())


def free_workers(cluster: Cluster) -> int:
    """How many workers fit into what nobody has reserved on each node that is not draining.

    Ray has no public call for what is free by node. Where a later version has none at all, it counts what is free in
    all, if it lay well.
    """
    import ray

    ask = getattr(ray._private.state, "available_resources_per_node", None)
    if ask is None:
        free = ray.available_resources()
        return min(int(free.get(kind, 0.0) // count) for kind, count in resources(cluster).items())
    by_node = ask()
    left = (
        replace(node, cpus=free.get("CPU", 0.0), gpus=free.get("GPU", 0.0))
        for node in nodes()
        for free in [by_node.get(node.id, {})]
    )
    return room(left, cluster)


def ask_for(cluster: Cluster, workers: int) -> None:
    """Tells an autoscaler, where the cluster has one, that so many workers shall fit, those that run among them; 0
    takes it back. It stands until the next call: a cluster has one such request, whoever makes it."""
    from ray.autoscaler.sdk import request_resources
    from ray.exceptions import RayError

    if not os.environ.get("RAY_ADDRESS"):
        return  # nothing comes to this machine
    # A Ray that does not answer is not worth a job: it goes on with what there is.
    with contextlib.suppress(RayError, OSError, RuntimeError):
        request_resources(bundles=[resources(cluster)] * workers)


def on_node(node: str) -> Any:
    """The scheduling strategy that places a task or an actor on the node of that id, and nowhere else."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


@contextlib.contextmanager
def _our_signals() -> Iterator[None]:
    """Ray puts a handler of its own on SIGTERM, which ends the process; ours saves a checkpoint first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
