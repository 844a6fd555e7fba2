"""`retry:` what happens when an attempt fails."""

from __future__ import annotations

from jobspecs.base import NonNegativeFloat, PositiveFloat, PositiveInt, Section


class Retry(Section):
    """A failed attempt is followed by another, from the newest good checkpoint."""

    max_attempts: PositiveInt = 4
    """Attempts in one go of the job, the first included. A run that is started again counts anew."""
    delay_seconds: NonNegativeFloat = 2.0
    """Wait before the next attempt."""
    hang_after_seconds: PositiveFloat = 300.0
    """An attempt one of whose ranks stands still for so long, in one phase of one step, is ended."""
