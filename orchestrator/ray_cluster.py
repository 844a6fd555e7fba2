"""Ray: a local one for `tandem run`, the cluster's own where this process runs on one."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator

from jobspecs.cluster import Cluster
from jobspecs.errors import UsageError

# Ray reads these when it is imported. Usage reports are sent only where the user asks for them.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Workers stay in the driver's folder: relative paths mean the same everywhere.
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")


def start_ray(cluster: Cluster) -> None:
    """Connects to the cluster that `RAY_ADDRESS` names, else starts Ray on this machine. Once a process.

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
            try:
                _knock(address)
                ray.init(log_to_driver=False, logging_level=logging.WARNING)
            except OSError as error:  # ConnectionError, Ray's own too, is one
                raise UsageError(
                    f"there is no Ray cluster at RAY_ADDRESS={address}. Start it, correct the address, or unset it "
                    "to run on this machine."
                ) from error
        else:
            # On one machine more workers than cores are slower but the same experiment; one CPU is for
            # the evaluation task. "local" starts a Ray of its own beside any other on the machine.
            cpus = max(os.cpu_count() or 1, cluster.workers * cluster.cpus_per_worker + 1)
            ray.init(address="local", num_cpus=cpus, log_to_driver=False, logging_level=logging.WARNING)


def _knock(address: str) -> None:
    """Raises OSError when nobody listens at `host:port`: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=5).close()


def check_resources(cluster: Cluster) -> None:
    """Raises UsageError when the cluster has less than the workers ask for: they would wait for ever."""
    import ray

    there = ray.cluster_resources()
    wanted = {
        "CPU": cluster.workers * cluster.cpus_per_worker,
        "GPU": cluster.workers * cluster.gpus_per_worker,
    }
    for kind, count in wanted.items():
        if count > there.get(kind, 0):
            raise UsageError(
                f"{cluster.workers} workers need {count} {kind}s, the cluster has {there.get(kind, 0):g}. Lower "
                f"cluster.workers or cluster.{kind.lower()}s_per_worker, or add nodes."
            )


def draining_nodes() -> set[str]:
    """Ray's ids of the nodes that are going to be taken away: preempted, or no longer needed by the autoscaler.

    Ray has no public call for it. Where a later version has none at all, no node is known to be going, and one that
    goes is met as a node that was lost.
    """
    import ray

    ask = getattr(ray._private.state.state, "get_draining_nodes", dict)
    return set(ask())


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
