"""Ends the processes of an attempt whose ranks hang, or are not wanted any more, whatever they do.

A rank may stand still in any way: in a system call, in a collective, stopped by a signal. So whoever ends it does not
ask it: its process is killed by a task on its node. (Ray Train's own way takes 9 s where a process is stopped, and
for ever where it was stopped before Ray Train had started it.)
"""

from __future__ import annotations

import contextlib

import psutil

from orchestrator import ray_cluster

_WORKER = "RayTrainWorker"
"""Ray Train's name for the class of its workers."""


def kill_workers(patience_seconds: float = ray_cluster.ANSWER_SECONDS) -> None:
    """Kills all workers of Ray Train that this job of Ray has, whatever they do. Waits for it, no longer than said.

    A job has one attempt at a time. Of a worker that never beat, Ray alone knows the process.
    """
    import ray

    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    kill = ray.remote(num_cpus=0, max_retries=0)(_kill_tree)
    killing = [
        kill.options(scheduling_strategy=ray_cluster.on_node(actor["Address"]["NodeID"])).remote(actor["Pid"])
        for actor in ray._private.state.actors(job_id=job).values()
        if actor["ActorClassName"] == _WORKER and actor["State"] != "DEAD" and actor["Pid"]
    ]
    # A node that is gone has taken its workers along.
    ray.wait(killing, num_returns=len(killing), timeout=patience_seconds)


def _kill_tree(pid: int) -> None:
    """SIGKILL for a worker of Ray on this node and all that it has started; nothing where it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        worker = psutil.Process(pid)
        # A number that came again is some other process's.
        if not worker.cmdline() or not worker.cmdline()[0].startswith("ray::"):
            return
        children = worker.children(recursive=True)
        worker.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
