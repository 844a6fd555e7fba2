"""What a step is to end with: rank 0 alone decides, the other ranks learn it with the batch's small gather."""

from __future__ import annotations

from enum import IntEnum

from jobspecs.checkpoint import Checkpoint


class Command(IntEnum):
    """What rank 0 has all ranks do."""

    GO = 0
    """The step, and no more."""
    SAVE = 1
    """The step, then a checkpoint beside the next ones."""
    SAVE_AND_END = 2
    """The step, then a checkpoint, then the end of the attempt."""
    FAIL = 3
    """No step: a save has failed for good, and every rank raises what its saver says of it."""


class SaveSchedule:
    """When a checkpoint is due: pure, but for what it remembers of the last one.

    By `every_steps` at its exact multiples, whatever was saved between them; by `every_minutes` so long after the last
    save. What comes due while a save is in flight is taken at the first step at which none is.
    """

    def __init__(self, checkpoint: Checkpoint, step: int, now: float) -> None:
        """step: that the attempt starts from. now: seconds of any monotonic clock."""
        self._every_steps = checkpoint.every_steps
        self._every_seconds = None if checkpoint.every_minutes is None else 60 * checkpoint.every_minutes
        self._step = step
        self._time = now

    def command(self, step: int, now: float, *, busy: bool, stop: bool) -> Command:
        """For the step that makes it `step` in all. busy: a save is in flight. stop: the attempt was asked to end."""
        if not (stop or (self._is_due(step, now) and not busy)):
            return Command.GO
        self._step, self._time = step, now
        return Command.SAVE_AND_END if stop else Command.SAVE

    def _is_due(self, step: int, now: float) -> bool:
        by_steps = self._every_steps is not None and step // self._every_steps > self._step // self._every_steps
        return by_steps or (self._every_seconds is not None and now - self._time >= self._every_seconds)
