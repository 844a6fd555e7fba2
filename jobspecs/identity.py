"""What a change of each field means: nothing, a run that goes on, or another experiment; and why.

A field belongs to the experiment when changing it changes a batch, a loss or a parameter. The rest may differ between
two attempts of one run: where it runs, how often it commits, how it is scored. One table says so; the hash of an
experiment, the refusal to go on with another one and `tandem diff` all ask here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any


class Effect(Enum):
    """What a change of a field does to a run."""

    COSMETIC = "cosmetic"
    """Nothing: training does not look at it."""
    RESUMABLE = "resumable"
    """The run goes on with it: the same batches, losses and parameters."""
    EXPERIMENT = "another experiment"
    """Other batches, losses or parameters: it takes another name, and starts anew."""


@dataclass(frozen=True)
class Meaning:
    """What a change means of the fields at and below `pattern`, a dotted path in which `*` is any list index."""

    pattern: str
    effect: Effect
    why: str

    def covers(self, path: tuple[str, ...]) -> bool:
        """Whether `path` lies at or below the pattern."""
        pattern = self._parts
        return len(path) >= len(pattern) and all(want in ("*", have) for have, want in zip(path, pattern, strict=False))

    @cached_property
    def _parts(self) -> tuple[str, ...]:
        return tuple(self.pattern.split("."))


_C, _R, _E = Effect.COSMETIC, Effect.RESUMABLE, Effect.EXPERIMENT

MEANINGS = (
    Meaning("apiVersion", _C, "the version of the language says nothing about the job"),
    Meaning("name", _C, "names the run directory: the same experiment begins anew in one of its own"),
    Meaning("mining", _C, "`tandem mine` reads it; it makes other tars, and training on those names them"),
    Meaning("storage.root", _C, "where the run directory is: bring it along, or the same experiment begins anew"),
    Meaning("tracking", _C, "where curves are shown"),
    Meaning("storage", _R, "how storage is reached"),
    Meaning("cluster", _R, "any number of ranks computes the same batches and losses"),
    Meaning("checkpoint", _R, "how often the run commits, and what it keeps"),
    Meaning("retry", _R, "what happens after a failure"),
    Meaning("evaluations", _R, "how checkpoints are scored: no score changes a parameter"),
    Meaning("stop", _R, "when training ends early: up to there each step is the same"),
    Meaning("data.loader", _R, "how fast batches are made, never which"),
    Meaning("data.max_bad_fraction", _R, "when the job gives up, not what it trains on"),
    Meaning("data.sources.*.urls", _R, "moved tars are the same samples; the index tells where they are others"),
    Meaning("data.sources.*.index", _R, "an index says what is in the tars"),
    Meaning("training.micro_batch", _R, "the loss is that of the whole batch, in parts of any size"),
    Meaning("training.zero_stage", _R, "spreads the same numbers over the ranks"),
    Meaning("training.gradient_checkpointing", _R, "computes the same numbers twice, to save memory"),
    Meaning("training.compile", _R, "computes the same, but for float rounding"),
    Meaning("training.health_every", _R, "how often figures are taken"),
    Meaning("deepspeed.zero_optimization", _R, "bucket sizes, overlap and the like"),
    Meaning("deepspeed", _E, "DeepSpeed's own settings may change the numbers"),
    Meaning("seed", _E, "keys every random draw: order, augmentation, first weights"),
    Meaning("objective", _E, "another loss"),
    Meaning("data.sources", _E, "other samples, or other shares of each batch"),
    Meaning("data.shuffle_window", _E, "another order of the samples"),
    Meaning("data.lanes", _E, "another order of the samples"),
    Meaning("data", _E, "the towers see something else of a sample"),
    Meaning("model", _E, "other parameters"),
    Meaning("training.global_batch", _E, "the batch is the task: its other samples are the negatives"),
    Meaning("training.steps", _E, "another length, which the schedule follows"),
    Meaning("training.passes", _E, "another length, which the schedule follows"),
    Meaning("training.samples", _E, "another length, which the schedule follows"),
    Meaning("training.precision", _E, "other rounding in every step"),
    Meaning("training", _E, "the parameters move otherwise"),
)
"""The first that covers a path says what it means."""

IN_JOB = Meaning("mining", _E, "the job trains with the negatives that it mines")
"""Before all of them, of a job that mines for itself."""

HERE = "/./"
"""Stands in the path of a model's folder before what the spec says of it: `/home/me/./models/clip`. The rest differs
between machines and is no part of the experiment."""


def meaning_of(path: tuple[str, ...], *, mines: bool) -> Meaning:
    """What a change of the field at `path` means; `mines`, of a job that mines for itself."""
    table = (IN_JOB, *MEANINGS) if mines else MEANINGS
    return next(meaning for meaning in table if meaning.covers(path))


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The single values of a spec that was dumped, each with its path; a list of no sections is one."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from leaves(child, (*path, key))
    elif isinstance(value, list) and all(isinstance(item, dict) for item in value):  # none of no sections
        for number, child in enumerate(value):
            yield from leaves(child, (*path, str(number)))
    else:
        yield path, _as_written(path, value)


def _as_written(path: tuple[str, ...], value: Any) -> Any:
    """The folder of a model as its spec names it, and everything else as it is."""
    is_folder = path[-1:] in (("name",), ("model",)) and isinstance(value, str) and value.startswith("/")
    return value.partition(HERE)[2] or value if is_folder else value
