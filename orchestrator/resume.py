"""Where an attempt begins: the newest good checkpoint. Those that are not good lose their commit."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from jobspecs.errors import JobFailedError, NotFoundError
from orchestrator.journal import Journal
from orchestrator.prepare import Prepared


class CommitLostError(JobFailedError):
    """A commit that an attempt made is not in the run directory: nor would the next one's be."""


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

    def find(self) -> ResumePoint:
        """The newest good checkpoint. The newer ones that are not are withdrawn: they must not count as commits any
        more, nor be kept in place of good ones.

        Raises CommitLostError: it is older than what was committed, and none was withdrawn; StorageError.
        """
        from orchestrator.checkpoints import newest_good  # torch, which the driver starts without

        job = self._job
        good = newest_good(job.storage, job.run, job.fixed)
        if good.rejected:
            self.committed = good.step  # first: the storage may go away under what follows
        for rejected in good.rejected:
            self._withdraw(rejected.uri, rejected.reason)
        if good.step < self.committed:
            raise CommitLostError(
                f"{job.spec.name}: step {self.committed} was committed and can't be read back, {good.step} can. All "
                f"nodes must see the same {job.run.uri}: set storage.root to storage that they share."
            )
        return ResumePoint(good.uri, good.step)

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
