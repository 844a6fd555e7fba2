"""What a rank is given to train, and what comes of it. No torch: the driver has both in hand, and doesn't train."""

from __future__ import annotations

from dataclasses import dataclass

from jobspecs.job import JobSpec
from workers.run import RunDirectory, RunPlan


@dataclass(frozen=True)
class TrainTask:
    """One attempt's work, the same on all ranks."""

    spec: JobSpec
    plan: RunPlan
    run: RunDirectory
    attempt: int
    """From 1."""
    resume_from: str | None
    """URI of the checkpoint to go on from; None starts from the first weights."""
    driver: int = 0
    """Number of the driver that began it: it may not commit once the run has a newer one. 0: it has none."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt that did not fail ended."""

    step: int
    """Optimizer steps done; they are committed."""
