"""Evaluations of a committed checkpoint, each a Ray task; its result is a file in the run directory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from jobspecs.errors import TandemError
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
    """Names of the evaluations of the checkpoint at `step` that have no result yet."""
    return [e.name for e in spec.evaluations if not storage.exists(run.evaluation(step, e.name))]


def evaluate_with_ray(
    spec: JobSpec, run: RunDirectory, step: int, name: str, interrupted: Callable[[], bool]
) -> Evaluated | None:
    """Scores the checkpoint at `step` with the evaluation `name` in a Ray task, and waits for it. Returns
    None when it was `interrupted` before."""
    import ray
    from ray.exceptions import RayError

    cluster = spec.cluster
    task = ray.remote(
        num_cpus=cluster.cpus_per_worker, num_gpus=min(cluster.gpus_per_worker, 1), max_retries=1
    )(evaluate)
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
        encoder = Encoder(spec, run.checkpoint(step))
        scores = KINDS[section.kind](section, encoder)
    except TandemError as error:
        return Evaluated(name, str(error))
    result = Result(name, section.kind, step, run.checkpoint(step), time.monotonic() - began, scores)
    encoder.storage.write(run.evaluation(step, name), result.to_json())
    return Evaluated(name, None)
