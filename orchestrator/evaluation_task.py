"""An evaluation task on Ray: waits for room, scores one checkpoint, tells how it gets on.

It is a generator: what it yields reaches the driver while it runs. So the driver knows whether it waits for room, and
which evaluation ran when it died. It is never retried by Ray: that is decided by evaluation, in `due.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jobspecs.cluster import Cluster
from jobspecs.job import JobSpec
from jobspecs.schedule import TaskResources
from orchestrator.due import Batch
from orchestrator.evaluate import Began, Ended, evaluate
from workers.run import RunDirectory


@dataclass(frozen=True)
class Over:
    """The task is over."""

    cause: str | None = None
    """What it died of; None where it came to its end."""


News = Began | Ended | Over


def reserved(resources: TaskResources | None, cluster: Cluster) -> TaskResources:
    """What a task reserves."""
    if resources is not None:
        return resources
    return TaskResources(cpus=cluster.cpus_per_worker, gpus=min(cluster.gpus_per_worker, 1))


class RayTask:
    """A task, from now until it is over or cancelled."""

    def __init__(self, spec: JobSpec, run: RunDirectory, batch: Batch) -> None:
        import ray

        wanted = reserved(batch.evaluations[0].resources, spec.cluster)
        names = "+".join(evaluation.name for evaluation in batch.evaluations)
        task = ray.remote(
            num_cpus=wanted.cpus,
            num_gpus=wanted.gpus,
            num_returns="streaming",
            max_retries=0,
            max_calls=1,  # the process ends with it, and what it holds
        )(_evaluate)
        named = task.options(name=f"tandem:{spec.name}:{batch.step}:{names}")
        self._generator: Any = named.remote(spec, run, batch, wanted)

    def news(self) -> list[News]:
        """What has come since the last call; does not wait. Nothing comes after `Over`."""
        import ray
        from ray.exceptions import RayError

        news: list[News] = []
        while ray.wait([self._generator], timeout=0)[0]:
            try:
                news.append(ray.get(next(self._generator)))
            except StopIteration:
                return [*news, Over()]
            except RayError as error:
                return [*news, Over(_words(error))]
        return news

    def cancel(self) -> None:
        """Ends it, whether it runs or waits."""
        import ray

        ray.cancel(self._generator, force=True)


def _evaluate(spec: JobSpec, run: RunDirectory, batch: Batch, resources: TaskResources) -> Iterator[Began | Ended]:
    if not resources.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # those of the node are others'
    yield from evaluate(spec, run, batch.step, batch.evaluations)


def _words(error: Exception) -> str:
    """What Ray says of it, without its advice and logs."""
    from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    match error:
        case OutOfMemoryError():
            return f"its node ran out of memory, and Ray ended it: {lines[0]}"
        case WorkerCrashedError():
            return "its process died of a signal; the node's kernel log tells when memory ran out"
        case RayTaskError():
            return lines[-1]
        case _:
            return f"{type(error).__name__}: {lines[0] if lines else ''}"
