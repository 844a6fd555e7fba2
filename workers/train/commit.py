"""Rank 0's part of a save: what it makes of the ranks' tries, and the commit, which is the manifest.

    committer = Committer(storage, run, attempt, max_age_seconds)
    committer.judge(manifest, tries, age_seconds) -> Verdict

No ranks and no clock in here: `saver.py` brings the tries together, and tells the verdict.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from jobspecs.errors import AlreadyExistsError, StorageError, TandemError
from workers.run import RunDirectory
from workers.storage import Storage, join
from workers.train.checkpoint import CheckpointError, File, Manifest, verify, withdraw
from workers.train.fence import check_not_superseded

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tried:
    """How one rank's try went."""

    files: tuple[File, ...] = ()
    refused: StorageError | None = None
    """What may be mended by another try."""
    fault: str | None = None
    """What may not."""
    closing: bool = False
    """Whether the attempt has failed on this rank: there will be no other try."""


@dataclass(frozen=True)
class Verdict:
    """What rank 0 makes of the ranks' tries. Neither committed nor failed: they try again."""

    committed: bool = False
    failure: Exception | None = None
    """The save has failed for good."""
    lost: frozenset[str] = frozenset()
    """Names of files that were written and are not there."""


class Committer:
    """Commits the saves of one attempt."""

    def __init__(
        self, storage: Storage, run: RunDirectory, attempt: int, max_age_seconds: float, *, driver: int = 0
    ) -> None:
        """max_age_seconds: age of a save from which on it is not tried again. driver: number of the attempt's."""
        self._storage, self._run, self._attempt, self._driver = storage, run, attempt, driver
        self._max_age_seconds = max_age_seconds

    def judge(self, manifest: Manifest, tries: Sequence[Tried], age_seconds: float) -> Verdict:
        """Commits a save when all is there. Raises nothing: the other ranks wait for its word.

        manifest: lacks its files only. tries: by rank. age_seconds: since the save began.
        """
        step = manifest.step
        for rank, tried in enumerate(tries):
            if tried.fault is not None:
                return Verdict(failure=RuntimeError(f"the save of step {step} on rank {rank}: {tried.fault}"))
        refused = next((tried.refused for tried in tries if tried.refused is not None), None)
        lost: frozenset[str] = frozenset()
        try:
            if refused is None:
                files = tuple(file for tried in tries for file in tried.files)
                whole = replace(manifest, files=files, seconds=round(age_seconds, 3))
                lost = self._lost(whole)
                if not lost:
                    self._commit(whole)
                    return Verdict(committed=True)
                refused = StorageError(
                    f"{min(lost)} was written to {self._run.checkpoint(step)} and is not there as it was written. All "
                    "nodes must see the same storage.root"
                )
        except StorageError as error:
            refused = error
        except TandemError as error:
            return Verdict(failure=error)
        except Exception as error:
            return Verdict(failure=RuntimeError(f"the save of step {step}: {type(error).__name__}: {error}"))
        if age_seconds >= self._max_age_seconds:
            return Verdict(
                failure=StorageError(
                    f"no checkpoint could be committed for {age_seconds / 60:.1f} minutes, since step {step}, and "
                    f"training does not go on without beyond checkpoint.max_age_minutes: {refused}"
                )
            )
        if any(tried.closing for tried in tries):
            return Verdict(
                failure=StorageError(
                    f"the checkpoint of step {step} is not committed, and is not tried again since the attempt ends: "
                    f"{refused}"
                )
            )
        logger.warning("the checkpoint of step %d is not committed yet, will try again: %s", step, refused)
        return Verdict(lost=lost)

    def _lost(self, manifest: Manifest) -> frozenset[str]:
        """Names of those of its files that are not there with their size."""
        uri = self._run.checkpoint(manifest.step)
        sizes = {info.uri: info.size for info in self._storage.list(uri)}
        return frozenset(file.name for file in manifest.files if sizes.get(join(uri, file.name)) != file.size)

    def _commit(self, manifest: Manifest) -> None:
        """Writes the manifest. Raises FencedError, StorageError."""
        uri = self._run.checkpoint(manifest.step)
        place = join(uri, "manifest.json")
        self._check_not_superseded()
        try:
            self._storage.write(place, manifest.to_json(), if_absent=True)
        except AlreadyExistsError:
            fault = self._fault_of_commit(uri, manifest)
            if fault is None:
                logger.info("the checkpoint of step %d is committed already", manifest.step)
            else:
                logger.warning("%s is committed again, what is there is no good: %s", uri, fault)
                self._check_not_superseded()  # a later attempt's is not ours to judge
                withdraw(self._storage, uri)
                self._storage.write(place, manifest.to_json(), if_absent=True)
        # Again: an attempt that was replaced meanwhile must not go on as if it were not. What it wrote is good.
        self._check_not_superseded()

    def _check_not_superseded(self) -> None:
        check_not_superseded(self._storage, self._run, self._attempt, self._driver)

    def _fault_of_commit(self, uri: str, manifest: Manifest) -> str | None:
        """Why the manifest that is at `uri` is not a commit of this step; None where it is.

        It is our own, when the answer to its write got lost, or that of an earlier attempt, fenced too late or
        withdrawn by nobody yet.
        """
        try:
            there = verify(self._storage, uri)
        except CheckpointError as error:
            return str(error)
        same = (there.step, there.spec_hash, there.index_fingerprint) == (
            manifest.step,
            manifest.spec_hash,
            manifest.index_fingerprint,
        )
        return None if same else "it belongs to another experiment"
