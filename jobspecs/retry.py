"""`retry:` what happens when an attempt fails.

A failed attempt is followed by another, from the newest good checkpoint. Each kind of failure has a budget of further
attempts and a backoff; a new commit gives all budgets back. A fault of the spec and a training that diverged are never
tried again, and a checkpoint that can't be read costs nothing: the one before it takes its place.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from jobspecs.base import Section, defaults, misplaced
from jobspecs.cluster import Cluster
from jobspecs.units import NonNegativeInt, NonNegativeSeconds, PositiveInt, Timed


class Budget(Section):
    """Attempts that follow on failures of one kind."""

    retries: NonNegativeInt = 2
    """Attempts that follow on failures of this kind with no new commit between them."""
    delay_seconds: NonNegativeSeconds = 2.0
    """Wait before the first of them. It doubles with each further one, and is shortened by up to a half at random:
    jobs that failed together don't come back together."""
    max_delay_seconds: NonNegativeSeconds = 300.0
    """The longest wait."""

    @model_validator(mode="after")
    def _delay_fits(self) -> Budget:
        if self.delay_seconds > self.max_delay_seconds:
            raise misplaced(
                "delay_seconds",
                f"delay_seconds {self.delay_seconds:g} is above max_delay_seconds, {self.max_delay_seconds:g}",
                "Raise max_delay_seconds with it.",
            )
        return self


class DeterministicBudget(Budget):
    """Of failures that mostly come again: one more attempt tells."""

    retries: NonNegativeInt = 1
    """Attempts that follow on failures of this kind with no new commit between them."""


class StorageBudget(Budget):
    """Of a storage that fails: every request was repeated for a while already."""

    delay_seconds: NonNegativeSeconds = 60.0
    """Wait before the first of them, doubled with each further one and shortened by up to a half at random."""
    max_delay_seconds: NonNegativeSeconds = 900.0
    """The longest wait."""


class PreemptionBudget(Budget):
    """Of nodes that are taken away: no failure, and an attempt that saved in time lost nothing."""

    retries: NonNegativeInt = 100
    """Attempts that follow on preemptions with no new commit between them."""
    delay_seconds: NonNegativeSeconds = 0.0
    """Wait before the first of them, doubled with each further one and shortened by up to a half at random."""


class Retry(Section):
    """Budgets of further attempts by kind of failure; what ends an attempt that hangs."""

    max_attempts: PositiveInt | None = None
    """Failed attempts that end the job, in one go of it, whatever they achieved; null: the budgets alone decide. A
    run that is started again counts anew."""
    max_failures_without_commit: PositiveInt = 3
    """Failures of any kinds with no new commit between them that end the job; preemptions are none."""
    hang_after_seconds: Annotated[float, Field(ge=5.0), Timed(1)] = 300.0
    """A rank that gives no sign of life or makes no headway for so long ends the attempt."""
    data: DeterministicBudget = defaults(DeterministicBudget)
    """Samples that can't be used: shards that are missing, changed or damaged."""
    storage: StorageBudget = defaults(StorageBudget)
    """A storage that can't be read or written."""
    out_of_memory: Budget = defaults(Budget)
    """A device's memory is full. The next attempt encodes half as many rows at a time."""
    host_out_of_memory: Budget = defaults(Budget)
    """A node's main memory is full."""
    worker_lost: Budget = defaults(Budget)
    """A worker process died, or the connection to it."""
    node_lost: Budget = defaults(Budget)
    """A node died, or too few of them were there to start on."""
    preempted: PreemptionBudget = defaults(PreemptionBudget)
    """A node is taken away, with or without notice."""
    hang: Budget = defaults(Budget)
    """A rank stands still."""
    bug: DeterministicBudget = defaults(DeterministicBudget)
    """Any other exception; the same one at the same step twice is not tried again."""


def check_times(cluster: Cluster, retry: Retry) -> None:
    """Raises a rule's error where a collective times out before a hang is told from a slow rank."""
    timeout, hang = cluster.collective_timeout_seconds, retry.hang_after_seconds
    if timeout <= hang:
        raise misplaced(
            "cluster.collective_timeout_seconds",
            f"collective_timeout_seconds {timeout} is not above retry.hang_after_seconds, {hang:g}",
            "The ranks that wait would end the attempt before it is found which one they wait for. Raise it, or lower "
            "retry.hang_after_seconds.",
        )
