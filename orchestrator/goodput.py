"""How much of the time a job gets on, given how often something fails. Pure arithmetic.

With S seconds that training stands still for a commit, an interval of I seconds between two commits, and a failure
every M seconds, each of which costs R seconds until training goes on and half an interval of work:

    goodput = 1 / (1 + S/I) · (1 - (R + I/2)/M)        best I ≈ sqrt(2·S·M)

(Young 1974, A first order approximation to the optimum checkpoint interval.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

RESTART_SECONDS = 19.0
"""From a failure to the next optimizer step: what `make bench-recovery` took on 2 cores after a worker's SIGKILL, 18.5,
20.7 and 18.9 s in its three runs."""
_STALL_BYTES_PER_SECOND = 1.8e9 / 0.21
"""Of the copy to host memory that training stands still for: what `make bench-recovery` took on 2 cores of a CPU."""


@dataclass(frozen=True)
class Goodput:
    """Of a job that commits as its spec says."""

    interval_seconds: float
    """Between two commits."""
    fraction: float
    """Of the time, that which is not lost."""
    best_interval_seconds: float
    best_fraction: float


def stall_seconds(checkpoint_bytes: float, workers: int) -> float:
    """How long training stands still for a commit, about: each rank copies its part."""
    return checkpoint_bytes / workers / _STALL_BYTES_PER_SECOND


def goodput(interval_seconds: float, stall: float, failures_per_day: float) -> Goodput:
    """interval_seconds: between two commits; stall: of each; failures_per_day: of the whole job. All above 0."""
    between_failures = 86_400 / failures_per_day
    best = math.sqrt(2 * stall * between_failures)

    def fraction(interval: float) -> float:
        lost = min(1.0, (RESTART_SECONDS + interval / 2) / between_failures)
        return (1 - lost) / (1 + stall / interval)

    return Goodput(interval_seconds, fraction(interval_seconds), best, fraction(best))
