"""Mining as a stage between attempts: before one that trains with a version of the negatives that is not there yet.

Which version that is follows from the step that the attempt begins at (workers/mining/versions.py): where a version
begins, the attempt before has committed and ended, and its checkpoint mines. A version that is there is used as it is,
whatever became of the checkpoint that mined it.
"""

from __future__ import annotations

import time

from jobspecs.errors import JobFailedError
from orchestrator.halt import Halt
from orchestrator.journal import Journal
from orchestrator.prepare import Prepared
from orchestrator.resume import ResumePoint
from workers.data.negatives import read_table
from workers.mining.versions import Era, era_of


class MiningStage:
    """What a job mines for itself; nothing where it mines nothing."""

    def __init__(self, job: Prepared, journal: Journal, halt: Halt) -> None:
        self._job = job
        self._journal = journal
        self._halt = halt

    def before(self, point: ResumePoint) -> None:
        """Mines what the attempt that begins at `point` trains with, unless it is there. Where the job is interrupted,
        it returns before it is done.

        Raises TakenOverError, StorageError; DataError, JobFailedError: it can't be mined, or what was mined is gone.
        """
        job = self._job
        if job.spec.job_mining is None:
            return
        era = era_of(job.spec.job_mining, job.fixed.total_steps, point.step)
        if not era.version or read_table(job.storage, job.run.negatives(era.version)) is not None:
            return
        if point.step != era.start:
            raise JobFailedError(
                f"{job.spec.name}: step {point.step} was trained with negatives v{era.version}, and "
                f"{job.run.negatives(era.version)} is gone. Bring a copy of it back, or train the job anew under "
                "another name."
            )
        self._mine_version(era, point)

    def _mine_version(self, era: Era, point: ResumePoint) -> None:
        from orchestrator import job_mining  # torch, which the driver starts without

        by = job_mining.model_name(self._job, era)
        when = f"from step {era.start}" if era.start else "before training"
        self._journal.event(
            "mining_started",
            f"mining negatives v{era.version} {when}, {by}",
            version=era.version,
            step=era.start,
        )
        began = time.monotonic()
        try:
            table, found = job_mining.mine_version(self._job, era, point.uri, self._check)
        except _InterruptedError:
            return
        seconds = time.monotonic() - began
        fewer = f", {found.fewer:,} of them fewer than wanted" if found.fewer else ""
        self._journal.event(
            "negatives_mined",
            f"negatives v{era.version}: {found.negatives:,} for {found.mined:,} of {found.samples:,} samples{fewer}, "
            f"in {seconds:.0f} s",
            version=era.version,
            step=era.start,
            digest=table.digest,
            negatives=found.negatives,
            mined=found.mined,
            fewer=found.fewer,
            none=found.none,
            seconds=seconds,
        )

    def _check(self) -> None:
        if self._halt.asked():
            raise _InterruptedError


class _InterruptedError(Exception):
    """The job is interrupted: mining goes on with the next go."""
