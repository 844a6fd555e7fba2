"""Which checkpoint to go on from, and which to keep."""

from __future__ import annotations

from dataclasses import dataclass

from jobspecs.errors import StorageError
from workers.run import RunDirectory, RunPlan, committed_steps
from workers.storage import Storage, join
from workers.train.checkpoint import CheckpointError, Manifest, verify


@dataclass(frozen=True)
class Rejected:
    """A committed checkpoint that can't be gone on from."""

    uri: str
    reason: str


@dataclass(frozen=True)
class NewestGood:
    """The newest checkpoint that is whole, and those newer ones that are not."""

    uri: str | None
    step: int
    """0 without a checkpoint."""
    rejected: tuple[Rejected, ...]


def newest_good(storage: Storage, run: RunDirectory, plan: RunPlan) -> NewestGood:
    """Reads every file of the newest checkpoint against its manifest; where one is missing, damaged or of
    another experiment, goes on to the next older one. Raises StorageError when the store does not answer."""
    rejected = []
    for step in reversed(committed_steps(storage, run)):
        uri = run.checkpoint(step)
        try:
            _check_experiment(verify(storage, uri), plan)
        except CheckpointError as error:
            rejected.append(Rejected(uri, str(error)))
        else:
            return NewestGood(uri, step, tuple(rejected))
    return NewestGood(None, 0, tuple(rejected))


def _check_experiment(manifest: Manifest, plan: RunPlan) -> None:
    if manifest.spec_hash != plan.spec_hash or manifest.index_fingerprint != plan.index_fingerprint:
        raise CheckpointError("it belongs to another experiment")


def delete_older(storage: Storage, run: RunDirectory, keep_last: int) -> list[int]:
    """Deletes all but the `keep_last` newest commits. Returns the steps that are gone.

    The manifest goes first: what is left of a deletion that breaks off is no checkpoint.
    """
    gone = committed_steps(storage, run)[:-keep_last]
    for step in gone:
        uri = run.checkpoint(step)
        storage.delete(join(uri, "manifest.json"))
        for info in storage.list(uri):
            try:
                storage.delete(info.uri)
            except StorageError:
                continue  # a file that stays costs space, and nothing else
    return gone
