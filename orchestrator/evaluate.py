"""Scores a checkpoint in this process, and tells how it gets on: what an evaluation task does, and `tandem eval`.

    Began("a")  Ended("a", score)  Began("b")  Ended("b", fault=…)

One encoder does them all, so that what several of them need is encoded once; one that fails leaves the others alone.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobspecs.errors import StorageError, TandemError
from jobspecs.evaluation import Evaluation, evaluation_hash
from jobspecs.job import JobSpec
from orchestrator.due import Fault, MainScore
from workers.run import RunDirectory

if TYPE_CHECKING:
    from workers.evaluate.encode import Encoder
    from workers.evaluate.result import Result


@dataclass(frozen=True)
class Began:
    """An evaluation began."""

    name: str


@dataclass(frozen=True)
class Ended:
    """An evaluation ended: with a result, which is in the run directory, or a fault."""

    name: str
    score: MainScore | None = None
    fault: Fault | None = None
    seconds: float = 0.0
    """Of the first of a task with those that loading the model took."""


def evaluate(spec: JobSpec, run: RunDirectory, step: int, evaluations: Sequence[Evaluation]) -> Iterator[Began | Ended]:
    """Scores the checkpoint at `step` and writes the results. The model is loaded as a part of the first."""
    encoder: Encoder | None = None
    for evaluation in evaluations:
        yield Began(evaluation.name)  # first of all: what comes now takes seconds
        began = time.monotonic()
        try:
            if encoder is None:
                encoder = encoder_of(spec, run, run.checkpoint(step))
            result = score(evaluation, encoder, step, run.checkpoint(step))
            encoder.storage.write(run.evaluation(step, evaluation.name), result.to_json())
        except Exception as error:
            yield Ended(evaluation.name, fault=fault_of(error), seconds=time.monotonic() - began)
        else:
            yield Ended(evaluation.name, main_score_of(result), seconds=time.monotonic() - began)


def encoder_of(spec: JobSpec, run: RunDirectory, checkpoint: str, *, raw: bool = False) -> Encoder:
    """The model of a checkpoint. raw: its weights as trained, where the run averages them.

    Raises CheckpointError, DataError, StorageError.
    """
    from workers.evaluate.encode import Encoder  # torch and transformers, which the driver does without

    return Encoder.of_checkpoint(spec, run, checkpoint, raw=raw)


def score(evaluation: Evaluation, encoder: Encoder, step: int, checkpoint: str) -> Result:
    """Does one evaluation. Raises DataError, StorageError, and whatever is wrong with it."""
    from workers.evaluate import KINDS
    from workers.evaluate.result import Result

    began = time.monotonic()
    scores = KINDS[evaluation.kind](evaluation, encoder)
    return Result(
        evaluation=evaluation.name,
        kind=evaluation.kind,
        spec_hash=evaluation_hash(evaluation),
        step=step,
        checkpoint=checkpoint,
        seconds=time.monotonic() - began,
        result=scores,
    )


def main_score_of(result: Result) -> MainScore:
    """The main score of a result."""
    scores = result.result
    return MainScore(scores.main, scores.scores[scores.main], scores.higher_is_better)


def fault_of(error: Exception) -> Fault:
    """What is the matter. What data or checkpoint lack, they lack the next time too."""
    if isinstance(error, TandemError):
        return Fault(str(error), final=not isinstance(error, StorageError))
    (place,) = traceback.extract_tb(error.__traceback__)[-1:]
    return Fault(f"{type(error).__name__}: {error} ({place.name}, line {place.lineno} of {place.filename})")
