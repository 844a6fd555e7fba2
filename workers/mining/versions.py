"""(a spec's `mining`, a step) -> the version of the negatives that it trains with. Pure: it follows from spec and plan
alone, so that a resume at any step trains with the version that was in force there.

    before_training, every_steps: 100     version 1 from step 0, version 2 from step 100, version 3 from step 200, …
    every_steps: 100                      none from step 0, version 1 from step 100, …

Each version has its attempts: one that comes to the step where the next version begins commits it and ends.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobspecs.mining import Mining


@dataclass(frozen=True)
class Era:
    """Steps that train with the same negatives: `start` … `end` - 1, from 0."""

    version: int
    """Of the negatives; 0 where none are mined."""
    start: int
    """Optimizer steps that are done where it begins: a version is mined by the checkpoint there, the first one of a job
    that mines before training by `mining.model`."""
    end: int


def era_of(mining: Mining | None, total_steps: int, step: int) -> Era:
    """The era of the step that comes when `step` steps are done. mining: None, or not `in_job`, makes one of all."""
    first = int(mining is not None and mining.before_training)
    every = total_steps if mining is None or mining.every_steps is None else mining.every_steps
    number = step // every
    return Era(number + first, number * every, min((number + 1) * every, total_steps))


def eras(mining: Mining | None, total_steps: int) -> list[Era]:
    """All of a job's, in order."""
    found = [era_of(mining, total_steps, 0)]
    while found[-1].end < total_steps:
        found.append(era_of(mining, total_steps, found[-1].end))
    return found
