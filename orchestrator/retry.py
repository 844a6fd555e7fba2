"""(failed attempts, spec) -> what to do. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from jobspecs.retry import Retry


@dataclass(frozen=True)
class Again:
    """Start another attempt."""

    delay_seconds: float


@dataclass(frozen=True)
class GiveUp:
    """The job has failed."""

    reason: str


def decide(failed_attempts: int, retry: Retry) -> Again | GiveUp:
    """What follows on the `failed_attempts`-th failure of this go of the job."""
    if failed_attempts >= retry.max_attempts:
        return GiveUp(f"{failed_attempts} of {retry.max_attempts} attempts failed (retry.max_attempts)")
    return Again(retry.delay_seconds)
