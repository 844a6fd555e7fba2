"""The learning rate as a pure function of the step: a resume needs no scheduler state."""

from __future__ import annotations

import math

from jobspecs.training import Training


def learning_rate(step: int, total_steps: int, training: Training) -> float:
    """The learning rate of optimizer step `step` (from 0) of `total_steps`.

    Linear warm-up over `warmup_steps`, which ends at the peak, then half a cosine (Loshchilov and Hutter
    2017, eq. 5) down to `final_fraction` of it, which it would reach at `total_steps`.
    """
    peak, schedule = training.optimizer.learning_rate, training.schedule
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    progress = (step - schedule.warmup_steps) / max(1, total_steps - schedule.warmup_steps)
    floor = schedule.final_fraction
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
