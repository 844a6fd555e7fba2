"""The model that mines: `mining.model` or the job's own checkpoint, reading the columns that are mined for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jobspecs.errors import UsageError
from jobspecs.job import JobSpec
from jobspecs.mining import BM25, SIDES, Mining
from jobspecs.storage import S3
from orchestrator.embedding import settings_of
from orchestrator.find_checkpoint import FoundCheckpoint, find_checkpoint
from workers.embed.settings import Settings
from workers.pretrained.load import is_model_folder
from workers.storage import Storage, join

PLACE = ("column", "field")
"""Where in a sample a side stands."""


@dataclass(frozen=True)
class Model:
    """What embeds: not with BM25."""

    found: FoundCheckpoint
    """With the columns of the spec that is mined for, and its cluster and storage."""
    settings: dict[str, Settings]
    """By side."""


def named_model(spec: JobSpec, mining: Mining, storage: Storage) -> Model | None:
    """What `mining.model` names; None for BM25. Raises UsageError, CheckpointError, StorageError."""
    if mining.model == BM25:
        return None
    s3 = None if spec.storage.s3 == S3() else spec.storage.s3
    named = mining.model or join(spec.storage.root, spec.name)
    if is_model_folder(named):
        raise UsageError(
            f"mining.model: {named} is a model of another library. Mining takes a run of Tandem, the folder of one of "
            f"its checkpoints, or {BM25}"
        )
    return model_of(find_checkpoint(named, s3, spec.storage.root), spec, storage)


def model_of(found: FoundCheckpoint, spec: JobSpec, storage: Storage) -> Model:
    """A checkpoint, as it reads the data of `spec`. Raises UsageError: it encodes other sides; StorageError."""
    theirs, ours = found.spec.data, spec.data
    sides = SIDES[spec.objective.kind]
    if any(getattr(theirs, side) is None for side in sides):
        encodes = " and ".join(side for side in ("image", *theirs.texts) if getattr(theirs, side) is not None)
        raise UsageError(
            f"mining.model: the model of {found.run.uri} encodes {encodes}, and mining for "
            f"{spec.objective.kind} needs {' and '.join(sides)}. Name another one"
        )
    settings = {side: settings_of(found, side, "float32", ()) for side in sides}
    # What it reads are our columns; how it reads them (size, prefix, context length) it has learned with its own.
    places = {
        side: getattr(theirs, side).model_copy(
            update={name: getattr(getattr(ours, side), name) for name in PLACE if hasattr(getattr(ours, side), name)}
        )
        for side in sides
    }
    reading = found.spec.model_copy(update={"data": theirs.model_copy(update=places), "cluster": spec.cluster})
    return Model(replace(found, spec=reading, storage=storage), settings)
