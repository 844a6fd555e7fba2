"""`cluster:` what the job runs on. Nothing here changes the experiment."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from jobspecs.base import NonNegativeInt, PositiveInt, Section


class Cluster(Section):
    """The worker group."""

    workers: PositiveInt = 1
    """Ranks. Any number from 1 to the number of lanes gives the same experiment."""
    cpus_per_worker: PositiveInt = 1
    """CPU cores that each rank reserves, its loader processes included."""
    gpus_per_worker: NonNegativeInt = 0
    """GPUs that each rank reserves; 0 trains on CPUs."""
    collective_timeout_seconds: Annotated[int, Field(ge=10)] = 300
    """A collective that takes longer ends the attempt."""

    @property
    def backend(self) -> str:
        """The process group's backend."""
        return "nccl" if self.gpus_per_worker else "gloo"
