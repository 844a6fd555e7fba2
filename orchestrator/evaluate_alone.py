"""`tandem eval`: evaluations of one checkpoint in this process, without Ray and without a job that runs.

Those of the run's own spec are kept in the run directory, as the job keeps them. Those of another spec are told alone:
the run's results are of the run's evaluations.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobspecs.errors import TandemError, UsageError
from jobspecs.evaluation import Evaluation
from jobspecs.job import JobSpec
from jobspecs.load import dumps, load, loads
from orchestrator.evaluate import encoder_of, score
from orchestrator.ledger import Ledger
from orchestrator.prepare import absolute_uris
from workers.run import RunDirectory, committed_steps
from workers.storage import Storage


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, and the run that it is of."""

    run: RunDirectory
    step: int
    spec: JobSpec
    """The run's."""


def find(storage: Storage, uri: str) -> Checkpoint:
    """The checkpoint at the URI, or the newest good one of the run there. Raises UsageError, StorageError."""
    from orchestrator.checkpoints import newest_good

    match = re.fullmatch(r"(.+)/checkpoints/step-(\d{8,})", uri)
    run = RunDirectory(match[1] if match else uri)
    plan = Ledger(storage, run).plan()
    if plan is None:
        raise UsageError(
            f"{run.uri} holds no run. Give a run directory, such as runs/<name>, or <run>/checkpoints/step-….",
        )
    spec = loads(storage.read(run.spec).decode(), run.spec)
    if not match:
        step = newest_good(storage, run, plan).step
        if not step:
            raise UsageError(f"{run.uri} has no checkpoint that can be loaded. Let the run come to its first commit.")
        return Checkpoint(run, step, spec)
    if int(match[2]) not in (steps := committed_steps(storage, run)):
        there = ", ".join(map(str, steps)) or "none"
        raise UsageError(f"{uri} is no checkpoint that was committed. Steps of {run.name} that are: {there}.")
    return Checkpoint(run, int(match[2]), spec)


def chosen(checkpoint: Checkpoint, spec: Path | None, only: Collection[str]) -> Sequence[Evaluation]:
    """The evaluations of the run's spec, or of the file `spec`, on the run's columns; those named by `only`, or all.

    Raises SpecError: they don't fit the run's columns; UsageError: a name that there is none of.
    """
    evaluations: Sequence[Evaluation] = checkpoint.spec.evaluations
    if spec is not None:
        ours = checkpoint.spec
        keeps = ours.checkpoint.model_copy(update={"keep_best": None})
        update = {"evaluations": load(spec, ()).evaluations, "checkpoint": keeps, "stop": None}
        evaluations = absolute_uris(loads(dumps(ours.model_copy(update=update)), str(spec))).evaluations
    names = [evaluation.name for evaluation in evaluations]
    for name in only:
        if name not in names:
            raise UsageError(f"--only: there is no evaluation {name!r}. There are: {', '.join(names) or 'none'}.")
    return [evaluation for evaluation in evaluations if not only or evaluation.name in only]


def evaluate_alone(
    checkpoint: Checkpoint, evaluations: Sequence[Evaluation], *, keep: bool, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Results as stored; of one that its data don't allow, `step`, `evaluation` and the cause in `failed`.

    keep: whether they are written into the run directory. Raises CheckpointError, StorageError.
    """
    run, step = checkpoint.run, checkpoint.step
    uri = run.checkpoint(step)
    encoder = encoder_of(checkpoint.spec, run, uri)
    results: list[dict[str, Any]] = []
    for evaluation in evaluations:
        tell(f"evaluation {evaluation.name} of {uri}")
        try:
            content = score(evaluation, encoder, step, uri).to_json()
        except TandemError as error:
            results.append({"step": step, "evaluation": evaluation.name, "failed": str(error)})
            continue
        if keep:
            encoder.storage.write(run.evaluation(step, evaluation.name), content)
        results.append(json.loads(content))
    return results
