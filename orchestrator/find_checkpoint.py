"""What a user calls a model -> its checkpoint: the newest of a run, or the one that is named.

digits-clip                                       a run below the root, `runs` unless another one is given
runs/digits-clip, s3://bucket/runs/digits-clip    a run directory
runs/digits-clip/checkpoints/step-00000100        one of its checkpoints
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from jobspecs.errors import NotFoundError, UsageError
from jobspecs.job import JobSpec
from jobspecs.storage import S3, StorageSpec
from orchestrator.named_run import named_run
from workers.run import RunDirectory, RunPlan, committed_steps
from workers.run_inputs import load_spec
from workers.storage import Storage
from workers.train.checkpoint import CheckpointError, Manifest, verify

_CHECKPOINT = re.compile(r"(.+)/checkpoints/step-(\d{8,})")
_ROOT = StorageSpec().root


@dataclass(frozen=True)
class FoundCheckpoint:
    """A committed checkpoint, and the run that it is of."""

    spec: JobSpec
    """As the run keeps it: with absolute URIs. `storage.s3` is how the run was reached, if that was said."""
    run: RunDirectory
    uri: str
    manifest: Manifest
    storage: Storage
    """Reaches the run and the spec's data."""


def find_checkpoint(argument: str, s3: S3 | None = None, root: str = _ROOT) -> FoundCheckpoint:
    """The checkpoint that `argument` names: a run's name below `root`, a run directory (its newest checkpoint), or
    the folder of one checkpoint; paths or URIs. Its files are there with the sizes that its manifest says; their
    content is checked by who loads them.

    s3: how S3 is reached, in place of the spec's `storage.s3`, which can't be known before the run is read.

    Raises UsageError: no such run, nothing committed yet, or no checkpoint; CheckpointError: it is damaged, or not of
    its run; UnknownFormatError, RunDirectoryError, StorageError.
    """
    storage = Storage(s3 or S3())
    run, step = _placed(argument, root)
    try:
        plan = RunPlan.from_json(storage.read(run.plan))
        spec = load_spec(storage, run)
    except NotFoundError as error:
        if step is None:
            raise UsageError(
                f"{argument}: {run.uri} holds no run. Give a run directory, the name of one below {root}, or the "
                "folder of a checkpoint, such as runs/<name>/checkpoints/step-00000100; `tandem eval` also takes a "
                "model folder of transformers or sentence-transformers"
            ) from error
        raise UsageError(
            f"{argument}: {run.uri}, which the checkpoint is of, holds no run: plan.json or spec.yaml is "
            "missing. A checkpoint alone does not say which model it is of: copy the run directory as a whole"
        ) from error
    spec = spec if s3 is None else spec.model_copy(update={"storage": spec.storage.model_copy(update={"s3": s3})})
    storage = Storage(spec.storage.s3, read_ahead=spec.data.loader.read_ahead)
    steps = committed_steps(storage, run)
    if not steps:
        raise UsageError(
            f"{argument}: {run.uri} has not committed a checkpoint yet. Wait for its first, or go on with the run by "
            "`tandem run`"
        )
    if step is not None and step not in steps:
        raise UsageError(
            f"{argument}: there is no such checkpoint in {run.uri}. It has those of the steps "
            f"{', '.join(map(str, steps))}"
        )
    uri = run.checkpoint(steps[-1] if step is None else step)
    others = [run.checkpoint(other) for other in reversed(steps) if run.checkpoint(other) != uri]
    remedy = f"Name another one, such as {others[0]}" if others else "Bring a copy of it back, or train it again"
    try:
        manifest = verify(storage, uri)
    except CheckpointError as error:
        raise CheckpointError(f"{argument}: the checkpoint is damaged: {error}. {remedy}") from error
    if manifest.spec_hash != plan.spec_hash:
        raise CheckpointError(f"{argument}: {uri} belongs to another experiment than its run. {remedy}")
    return FoundCheckpoint(spec, run, uri, manifest, storage)


def _placed(argument: str, root: str) -> tuple[RunDirectory, int | None]:
    """The run that an argument names, and the step of a checkpoint, None for the newest one. Raises UsageError."""
    run = named_run(argument, root)
    match = _CHECKPOINT.fullmatch(run.uri)
    return (RunDirectory(match[1]), int(match[2])) if match else (run, None)
