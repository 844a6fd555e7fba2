"""The learning rate as a pure function of the step: a resume needs no scheduler state."""

from __future__ import annotations

import math

from jobspecs.training import Constant, Cosine, Training


def learning_rate(step: int, total_steps: int, training: Training) -> float:
    """The learning rate of optimizer step `step` (from 0) of `total_steps`.

    Linear warm-up over `warmup_steps`, which ends at the peak; then, with `s` steps since the warm-up:

    - cosine: half a cosine (Loshchilov and Hutter 2017, eq. 5) down to `final_fraction` of the peak, which it would
      reach at `total_steps`;
    - constant: the peak;
    - rsqrt: `peak / sqrt(1 + s / timescale)` (Zhai et al. 2022, Scaling vision transformers, section 3.5 and
      big_vision's implementation), times a line that falls from 1 to 0 over the last `cooldown_steps`.
    """
    peak, schedule = training.optimizer.learning_rate, training.schedule
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    since = step - schedule.warmup_steps
    if isinstance(schedule, Constant):
        return peak
    if isinstance(schedule, Cosine):
        progress = since / max(1, total_steps - schedule.warmup_steps)
        floor = schedule.final_fraction
        return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
    left = (total_steps - step) / schedule.cooldown_steps if schedule.cooldown_steps else 1.0
    return peak / math.sqrt(1 + since / schedule.timescale) * min(1.0, left)
