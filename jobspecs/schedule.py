"""When an evaluation is done, and on what; when training ends because of one.

Evaluations are tasks beside training: what they need comes on top of what `cluster:` reserves for the workers.
"""

from __future__ import annotations

from pydantic import model_validator

from jobspecs.base import Name, Section, misplaced
from jobspecs.units import NonNegativeInt, PositiveInt, Seconds


class TaskResources(Section):
    """What the task reserves that evaluates."""

    cpus: PositiveInt = 1
    """CPU cores."""
    gpus: NonNegativeInt = 0
    """GPUs; with 0 it computes on CPUs."""


class Schedule(Section):
    """What all evaluations have in common: when, on what, and how often again. None of it changes a score."""

    every_checkpoints: PositiveInt | None = None
    """Scores every so many-th checkpoint while training goes on. Null: none but the last."""
    at_end: bool = True
    """Scores the last checkpoint; with `best_only` the best instead."""
    best_only: Name | None = None
    """Name of another evaluation: after training, the checkpoint that it scores best is scored."""
    resources: TaskResources | None = None
    """What its task reserves. Null: a worker's CPUs, and one GPU where workers have any."""
    retries: NonNegativeInt = 1
    """Further tries of a checkpoint after the first has failed. Data that can't be used are not tried again."""
    timeout_seconds: Seconds = 3600.0
    """A try that takes longer is ended, and has failed."""

    @model_validator(mode="after")
    def _is_done_sometime(self) -> Schedule:
        if self.every_checkpoints is None and not self.at_end:
            raise misplaced(
                "at_end", "it would never be done: at_end is false and every_checkpoints null", "Give one of them."
            )
        if self.every_checkpoints is not None and self.best_only is not None:
            raise misplaced(
                "every_checkpoints",
                "every_checkpoints and best_only are both given",
                "The best is known after training; give one of them.",
            )
        return self


class EarlyStop(Section):
    """Ends training when it gets no better.

    Which step that is depends on when checkpoints were made and how soon they were scored, so on the cluster: up to it
    every step is what it would be anywhere, and `best_only` and `keep_best` name a checkpoint by its score.
    """

    evaluation: Name
    """Name of the evaluation whose main score tells."""
    patience: PositiveInt
    """Results of it in a row without a better one that end training."""
