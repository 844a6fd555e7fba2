"""`cluster:` what the job runs on. Nothing here changes the experiment."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from jobspecs.base import Section, misplaced
from jobspecs.kubernetes import Kubernetes
from jobspecs.units import NonNegativeInt, NonNegativeSeconds, PositiveInt, Seconds, Timed


class WorkerRange(Section):
    """As many ranks as there is room for."""

    min: PositiveInt
    """Fewest ranks that the job runs on; it waits for them."""
    max: PositiveInt
    """Most ranks that the job takes."""

    @model_validator(mode="after")
    def _is_a_range(self) -> WorkerRange:
        if self.min > self.max:
            raise misplaced("min", f"min {self.min} is above max, {self.max}")
        return self


def _kind_of_workers(value: Any) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return "int"
    return WorkerRange.__name__ if isinstance(value, dict | WorkerRange) else None


Workers = Annotated[
    Annotated[PositiveInt, Tag("int")] | Annotated[WorkerRange, Tag(WorkerRange.__name__)],
    Discriminator(
        _kind_of_workers,
        custom_error_type="workers",
        custom_error_message="should be a valid integer, or a range such as {min: 2, max: 8}",
    ),
]
"""Ranks: a number of them, or a range."""


class Cluster(Section):
    """The worker group."""

    workers: Workers = 1
    """Ranks. Any number from 1 to the number of lanes gives the same experiment. With a range, an attempt starts on
    what the cluster has room for, and the job grows when more comes."""
    cpus_per_worker: PositiveInt = 1
    """CPU cores that each rank reserves, its loader processes included."""
    gpus_per_worker: NonNegativeInt = 0
    """GPUs that each rank reserves; 0 trains on CPUs."""
    collective_timeout_seconds: Annotated[int, Field(ge=10, lt=1800), Timed(1)] = 600
    """A collective that takes longer ends the attempt. Longer than `retry.hang_after_seconds`, which tells more."""
    wait_seconds: NonNegativeSeconds = 600.0
    """How long the job waits for nodes when there is room for fewer than the least number of workers."""
    grow_every_seconds: Seconds = 600.0
    """The job grows to new nodes after a commit, at most once in so long: each time costs a start."""
    kubernetes: Kubernetes | None = None
    """For `tandem render kubernetes`."""

    @property
    def min_workers(self) -> int:
        """Fewest ranks."""
        return self.workers.min if isinstance(self.workers, WorkerRange) else self.workers

    @property
    def max_workers(self) -> int:
        """Most ranks."""
        return self.workers.max if isinstance(self.workers, WorkerRange) else self.workers

    @property
    def backend(self) -> str:
        """The process group's backend."""
        return "nccl" if self.gpus_per_worker else "gloo"
