"""Which checkpoint to go on from, which to keep, and what else may go."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from jobspecs.checkpoint import Checkpoint
from jobspecs.errors import StorageError
from jobspecs.job import JobSpec
from orchestrator.results import main_score_of
from workers.run import RunDirectory, RunPlan, committed_steps
from workers.storage import Storage, join
from workers.train.checkpoint import CheckpointError, Manifest, read_manifest, verify

UNFINISHED_SECONDS = 3600.0
"""A write that has not ended for so long has no writer any more."""


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
    """Holds the newest checkpoint against its manifest: whether it is of this experiment, and its files there with
    their sizes; where not, goes on to the next older one. Their content is checked by the ranks that load it; that of
    the last step here, as no attempt will.

    Raises UnknownFormatError, and StorageError when the store does not answer.
    """
    rejected = []
    for step in reversed(committed_steps(storage, run)):
        uri = run.checkpoint(step)
        try:
            _check_experiment(verify(storage, uri, content=step >= plan.total_steps), plan)
        except CheckpointError as error:
            rejected.append(Rejected(uri, str(error)))
        else:
            return NewestGood(uri, step, tuple(rejected))
    return NewestGood(None, 0, tuple(rejected))


def _check_experiment(manifest: Manifest, plan: RunPlan) -> None:
    if manifest.spec_hash != plan.spec_hash or manifest.index_fingerprint != plan.index_fingerprint:
        raise CheckpointError("it belongs to another experiment")


# --- retention --------------------------------------------------------------------------------------------


def superfluous(
    steps: Iterable[int], checkpoint: Checkpoint, scores: Mapping[int, float], in_use: Collection[int]
) -> list[int]:
    """Those of the committed `steps` that nothing keeps, ascending. Pure.

    scores: of the evaluation of `keep_best`, by step, the larger the better; a step without one is not among the best.
    in_use: steps that are resumed from, or still to be evaluated.
    """
    ascending = sorted(steps)
    kept = {*ascending[-checkpoint.keep_last :], *in_use}
    if checkpoint.keep_every is not None:
        kept |= first_of_each(ascending, checkpoint.keep_every)
    if checkpoint.keep_best is not None:
        scored = sorted((step for step in ascending if step in scores), key=lambda step: (scores[step], step))
        kept |= set(scored[-checkpoint.keep_best.count :])
    return [step for step in ascending if step not in kept]


def first_of_each(steps: Iterable[int], every: int) -> set[int]:
    """Of each multiple of `every`, the first step at or behind it: a commit that waits for the save before comes late.
    Pure."""
    firsts: dict[int, int] = {}
    for step in sorted(steps, reverse=True):
        firsts[step // every] = step
    firsts.pop(0, None)  # steps before the first multiple
    return set(firsts.values())


def retain(storage: Storage, run: RunDirectory, spec: JobSpec, attempt: int, in_use: Collection[int]) -> list[int]:
    """Deletes the checkpoints that are `superfluous`, and what attempts before `attempt` left without committing it.

    Returns the steps that are gone. Raises StorageError; what is not gone then goes with the next call.
    """
    folders = _folders(storage, run)
    committed = [step for step, folder in folders.items() if folder.is_committed]
    gone = superfluous(committed, spec.checkpoint, _scores(storage, run, spec, committed), in_use)
    for step in gone:
        uri = run.checkpoint(step)
        # It goes first: what is left of a deletion that breaks off is no checkpoint.
        storage.delete(join(uri, "manifest.json"))
        _delete(storage, uri, folders[step].others)
    for step, folder in folders.items():
        if step not in gone:
            _delete(storage, run.checkpoint(step), _leftovers(storage, run.checkpoint(step), folder, attempt))
    with contextlib.suppress(StorageError):  # costs space, and nothing else
        storage.delete_unfinished(run.checkpoints, UNFINISHED_SECONDS)
    return gone


@dataclass
class _Folder:
    """What lies in a checkpoint's folder."""

    is_committed: bool = False
    others: list[str] = field(default_factory=list)
    """Names of all objects but the manifest."""


def _folders(storage: Storage, run: RunDirectory) -> dict[int, _Folder]:
    folders: dict[int, _Folder] = {}
    for info in storage.list(run.checkpoints):
        if match := re.fullmatch(re.escape(run.checkpoints) + r"/step-(\d{8,})/([^/]+)", info.uri):
            folder = folders.setdefault(int(match[1]), _Folder())
            if match[2] == "manifest.json":
                folder.is_committed = True
            else:
                folder.others.append(match[2])
    return folders


def _leftovers(storage: Storage, uri: str, folder: _Folder, attempt: int) -> list[str]:
    """Files of attempts before `attempt` that no manifest names."""
    attempts = {name: int(match[1]) for name in folder.others if (match := re.match(r"\w+-a(\d{5,})-", name))}
    old = [name for name, number in attempts.items() if number < attempt]
    if folder.is_committed and old:
        if len(set(attempts.values())) == 1:
            return []  # those of the commit itself
        with contextlib.suppress(CheckpointError):
            named = {file.name for file in read_manifest(storage, uri).files}
            return [name for name in old if name not in named]
        return []
    return old


def _delete(storage: Storage, uri: str, names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(StorageError):  # a file that stays costs space, and nothing else
            storage.delete(join(uri, name))


def _scores(storage: Storage, run: RunDirectory, spec: JobSpec, steps: Iterable[int]) -> dict[int, float]:
    """What the evaluation of `keep_best`, as its section now stands, says of those steps that have a result of it: the
    larger the better."""
    best = spec.checkpoint.keep_best
    if best is None:
        return {}
    section = next(section for section in spec.evaluations if section.name == best.evaluation)
    scores = {step: main_score_of(storage, run, step, section) for step in steps}
    return {step: score.rank for step, score in scores.items() if score is not None}
