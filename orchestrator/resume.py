"""Where an attempt begins: the newest good checkpoint. Those that are not good lose their commit."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from jobspecs.errors import JobFailedError, NotFoundError
from orchestrator.journal import Journal
from orchestrator.prepare import Prepared

LOOK_AGAIN_SECONDS, POLL_SECONDS = 60.0, 5.0
"""How long a commit is looked for: a shared file system may show a folder's new files late."""


class CommitLostError(JobFailedError):
    """Commits that attempts made are not in the run directory: nor would the next one's be."""


@dataclass(frozen=True)
class ResumePoint:
    """What an attempt goes on from."""

    uri: str | None
    """The checkpoint; None where there is none yet."""
    step: int
    """Optimizer steps that are done there."""


class Resume:
    """Finds the resume point of each attempt."""

    def __init__(self, job: Prepared, journal: Journal) -> None:
        self._job = job
        self._journal = journal
        self.committed = 0
        """The step that the attempt before committed, and that must be found; 0 where there is none."""
        self._lost = False
        """Whether the commit before could not be found either."""

    def find(self) -> ResumePoint:
        """The newest good checkpoint. The newer ones that are not are withdrawn: they must not count as commits any
        more, nor be kept in place of good ones.

        Raises CommitLostError: it is older than what was committed, none was withdrawn, and so it was with the commit
        before; StorageError.
        """
        from orchestrator.checkpoints import newest_good  # torch, which the driver starts without

        job = self._job
        deadline = time.monotonic() + LOOK_AGAIN_SECONDS
        while (good := newest_good(job.storage, job.run, job.fixed)).step < self.committed and not good.rejected:
            if time.monotonic() > deadline:
                self._commit_is_gone(good.step)
                break
            time.sleep(POLL_SECONDS)
        else:
            self._lost = False
        if good.rejected:
            self.committed = good.step  # first: the storage may go away under what follows
        for rejected in good.rejected:
            self._withdraw(rejected.uri, rejected.reason)
        return ResumePoint(good.uri, good.step)

    def _commit_is_gone(self, step: int) -> None:
        """Somebody may have deleted the commit. Two in a row are written elsewhere: raises CommitLostError."""
        job, committed = self._job, self.committed
        if self._lost:
            raise CommitLostError(
                f"{job.spec.name}: step {committed} was committed and can't be read back, {step} can. All nodes must "
                f"see the same {job.run.uri}: set storage.root to storage that they share."
            )
        self._lost, self.committed = True, step
        uri = job.run.checkpoint(committed)
        reason = "it was committed, and its manifest is gone"
        self._journal.event("checkpoint_rejected", f"{uri} is not used: {reason}", checkpoint=uri, reason=reason)

    def withdraw_if_damaged(self, uri: str) -> bool:
        """Withdraws a checkpoint that a rank could not load. Returns False where it is whole, read from here: then it
        is not the cause. Raises StorageError."""
        from workers.train.checkpoint import CheckpointError, verify

        try:
            verify(self._job.storage, uri, content=True)
        except CheckpointError as error:
            with contextlib.suppress(NotFoundError):  # without a manifest it is no commit any more
                self._withdraw(uri, str(error))
            return True
        return False

    def _withdraw(self, uri: str, reason: str) -> None:
        from workers.train.checkpoint import withdraw

        withdraw(self._job.storage, uri)
        self._journal.event("checkpoint_rejected", f"{uri} is not used: {reason}", checkpoint=uri, reason=reason)
