"""`tandem eval`: evaluations of one checkpoint in this process, without Ray and without a job that runs.

Those of the run's own spec are kept in the run directory, as the job keeps them. Those of another spec, or of raw
weights, are told alone: the run's results are of the run's evaluations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobspecs.errors import SpecError, UsageError
from jobspecs.evaluation import Evaluation
from jobspecs.job import JobSpec
from jobspecs.load import dumps, load, loads
from jobspecs.places import Place
from jobspecs.redaction import redacted
from orchestrator.absolute_uris import absolute_uris
from orchestrator.evaluate import encoder_of, fault_of, score
from orchestrator.find_checkpoint import FoundCheckpoint

if TYPE_CHECKING:
    from workers.evaluate.encode import Encoder


def chosen(found: FoundCheckpoint, spec: Path | None, only: Collection[str]) -> Sequence[Evaluation]:
    """The evaluations of the run's spec, or of the file `spec`, on the run's columns; those named by `only`, or all.

    Raises SpecError: they don't fit the run's columns; UsageError: a name that there is none of.
    """
    evaluations: Sequence[Evaluation] = found.spec.evaluations
    if spec is not None:
        ours = found.spec
        keeps = ours.checkpoint.model_copy(update={"keep_best": None})
        update = {"evaluations": load(spec, ()).evaluations, "checkpoint": keeps, "stop": None}
        evaluations = absolute_uris(_checked(ours.model_copy(update=update), spec)).evaluations
    return named(evaluations, only)


def _checked(joined: JobSpec, spec: Path) -> JobSpec:
    """The run's spec with the evaluations of the file `spec`, which must fit it. Raises SpecError."""
    try:
        return loads(dumps(joined), str(spec))
    except SpecError as error:
        # Its lines are those of no file; its fields are those of the file `spec`.
        raise SpecError(tuple(replace(fault, place=Place(str(spec))) for fault in error.faults)) from error


def named(evaluations: Sequence[Evaluation], only: Collection[str]) -> Sequence[Evaluation]:
    """Those named by `only`, or all. Raises UsageError: a name that there is none of."""
    names = [evaluation.name for evaluation in evaluations]
    for name in only:
        if name not in names:
            raise UsageError(f"--only: there is no evaluation {name!r}. There are: {', '.join(names) or 'none'}.")
    return [evaluation for evaluation in evaluations if not only or evaluation.name in only]


def evaluate_alone(
    found: FoundCheckpoint,
    evaluations: Sequence[Evaluation],
    *,
    raw: bool = False,
    keep: bool,
    tell: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Results as stored; of one that fails, `step`, `evaluation` and the cause in `failed`. The others go on.

    raw: the weights as trained, where the run averages them. keep: whether they are written into the run directory.

    Raises what keeps the model from being loaded: CheckpointError, DataError, StorageError.
    """
    run, step, uri = found.run, found.manifest.step, found.uri
    encoder = encoder_of(found.spec, run, uri, raw=raw)

    def write(evaluation: Evaluation, content: bytes) -> None:
        if keep:
            encoder.storage.write(run.evaluation(step, evaluation.name), content)

    return scored(evaluations, encoder, step, uri, tell, write)


def scored(
    evaluations: Sequence[Evaluation],
    encoder: Encoder,
    step: int,
    uri: str,
    tell: Callable[[str], None],
    write: Callable[[Evaluation, bytes], None] = lambda evaluation, content: None,
) -> list[dict[str, Any]]:
    """Does the evaluations of a model, as `evaluate_alone` says; each result is handed to `write` as it is stored."""
    results: list[dict[str, Any]] = []
    for evaluation in evaluations:
        tell(f"evaluation {evaluation.name} of {uri}")
        try:
            content = score(evaluation, encoder, step, uri).to_json()
            write(evaluation, content)
        except Exception as error:
            results.append({"step": step, "evaluation": evaluation.name, "failed": redacted(fault_of(error).cause)})
        else:
            results.append(json.loads(content))
    return results
