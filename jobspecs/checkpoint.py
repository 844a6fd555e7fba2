"""`checkpoint:` how often the job commits, and what it keeps."""

from __future__ import annotations

from pydantic import model_validator

from jobspecs.base import Name, Section, misplaced
from jobspecs.units import Minutes, PositiveInt


class KeepBest(Section):
    """Which checkpoints an evaluation saves from deletion."""

    evaluation: Name
    """Name of the evaluation by whose main score they are ranked."""
    count: PositiveInt = 1
    """How many are kept; of equal scores the newer."""


class Checkpoint(Section):
    """Checkpoints. The last step is always one.

    Both `every_steps` and `every_minutes` may be given: whichever comes first. At most one save is in flight: while
    one is, the next waits for its end, and training does not.
    """

    every_steps: PositiveInt | None = 500
    """Steps between two commits: at most about this much work is lost. Null leaves it to `every_minutes`."""
    every_minutes: Minutes | None = None
    """Minutes between two commits."""
    keep_last: PositiveInt = 3
    """Newest commits that are kept; older ones are deleted after a new commit, unless one of the next two keeps them or
    an evaluation of them is still to be done: where evaluations come slower than commits, those that wait add up."""
    keep_best: KeepBest | None = None
    """Keeps those that an evaluation scores best."""
    keep_every: PositiveInt | None = None
    """Keeps the first commit at or behind each multiple of it."""
    max_age_minutes: Minutes = 60.0
    """A save that fails is tried again for so long, while training goes on; then the attempt ends with the cause."""

    @model_validator(mode="after")
    def _commits(self) -> Checkpoint:
        if self.every_steps is None and self.every_minutes is None:
            raise misplaced(
                "every_steps",
                "every_steps and every_minutes are both null",
                "Give at least one: without commits between, a failure costs all of the work.",
            )
        return self
