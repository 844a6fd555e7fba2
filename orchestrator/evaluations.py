"""Evaluations of a committed checkpoint, each a Ray task; its result is a file in the run directory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from jobspecs.errors import NotFoundError, TandemError
from jobspecs.evaluation import evaluation_hash
from jobspecs.job import JobSpec
from workers.run import RunDirectory
from workers.storage import Storage

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Evaluated:
    """How an evaluation ended."""

    name: str
    fault: str | None
    """None when its result is in the run directory."""


def pending(spec: JobSpec, storage: Storage, run: RunDirectory, step: int) -> list[str]:
    """Names of the evaluations of the checkpoint at `step` that have no result yet, as they now stand."""
    return [
        section.name
        for section in spec.evaluations
        if _hash_of_result(storage, run.evaluation(step, section.name)) != evaluation_hash(section)
    ]


def _hash_of_result(storage: Storage, uri: str) -> str | None:
    try:
        result: dict[str, str] = json.loads(storage.read(uri))
    except NotFoundError:
        return None
    return result.get("spec_hash")


def evaluate_with_ray(
    spec: JobSpec, run: RunDirectory, step: int, name: str, interrupted: Callable[[], bool]
) -> Evaluated | None:
    """Scores the checkpoint at `step` with the evaluation `name` in a Ray task, and waits for it. Returns
    None when it was `interrupted` before."""
    import ray
    from ray.exceptions import RayError

    cluster = spec.cluster
    task = ray.remote(num_cpus=cluster.cpus_per_worker, num_gpus=min(cluster.gpus_per_worker, 1), max_retries=1)(
        evaluate
    )
    reference = task.options(name=f"tandem:{spec.name}:{name}").remote(spec, run, step, name)
    while not ray.wait([reference], timeout=POLL_SECONDS)[0]:
        if interrupted():
            ray.cancel(reference, force=True)
            return None
    try:
        answer: Evaluated = ray.get(reference)
    except RayError as error:
        return Evaluated(name, str(error).strip().splitlines()[-1])
    return answer


def evaluate(spec: JobSpec, run: RunDirectory, step: int, name: str) -> Evaluated:
    """Scores a checkpoint in this process and writes the result."""
    # torch and transformers, which the driver does without.
    from workers.evaluate import KINDS
    from workers.evaluate.encode import Encoder
    from workers.evaluate.result import Result

    section = next(evaluation for evaluation in spec.evaluations if evaluation.name == name)
    began = time.monotonic()
    try:
        encoder = Encoder.of_checkpoint(spec, run, run.checkpoint(step))
        scores = KINDS[section.kind](section, encoder)
    except TandemError as error:
        return Evaluated(name, str(error))
    result = Result(
        evaluation=name,
        kind=section.kind,
        spec_hash=evaluation_hash(section),
        step=step,
        checkpoint=run.checkpoint(step),
        seconds=time.monotonic() - began,
        result=scores,
    )
    encoder.storage.write(run.evaluation(step, name), result.to_json())
    return Evaluated(name, None)
