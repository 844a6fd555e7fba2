"""Mining as a stage between attempts: before one that trains with a version of the negatives that is not there yet.

Which version that is follows from the step that the attempt begins at (workers/mining/versions.py): where a version
begins, the attempt before has committed and ended, and its checkpoint mines. A version that is there is used as it is,
whatever became of the checkpoint that mined it; what its driver left undone behind the manifest is made good.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from jobspecs.errors import JobFailedError, StorageError
from orchestrator.halt import Halt
from orchestrator.journal import Journal
from orchestrator.prepare import Prepared
from orchestrator.resume import ResumePoint
from workers.data.negatives import NegativesTable, read_table
from workers.mining.versions import Era, era_of

if TYPE_CHECKING:
    from workers.mining.table import Found

_MINED = "negatives_mined"


class MiningStage:
    """What a job mines for itself; nothing where it mines nothing."""

    def __init__(self, job: Prepared, journal: Journal, halt: Halt, make_room: Callable[[], None]) -> None:
        """make_room: called before something is mined, which takes all workers."""
        self._job = job
        self._journal = journal
        self._halt = halt
        self._make_room = make_room
        self._tidied: set[str] = set()
        """Folders of versions in which nothing is left over."""
        self._told: set[str] = set()
        """Digests of the versions that this go has told of, written down or not yet."""

    def before(self, point: ResumePoint) -> None:
        """Mines what the attempt that begins at `point` trains with, unless it is there. Where the job is interrupted,
        it returns before it is done.

        Raises TakenOverError, StorageError; DataError, JobFailedError: it can't be mined, or what was mined is gone.
        """
        job = self._job
        if job.spec.job_mining is None:
            return
        era = era_of(job.spec.job_mining, job.fixed.total_steps, point.step)
        if not era.version:
            return
        table = read_table(job.storage, job.run.negatives(era.version))
        if table is not None:
            if not self._is_told(table):
                from workers.mining.table import read_found  # torch

                self._tell(era, table, read_found(job.storage, table.uri))
            self._tidy(table)
        elif point.step == era.start:
            self._mine_version(era, point)
        else:
            raise JobFailedError(
                f"{job.spec.name}: step {point.step} was trained with negatives v{era.version}, and "
                f"{job.run.negatives(era.version)} is gone. Bring a copy of it back, or train the job anew under "
                "another name."
            )

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
        self._make_room()
        began = time.monotonic()
        try:
            table, found = job_mining.mine_version(self._job, era, point.uri, self._check)
        except _InterruptedError:
            return
        self._tell(era, table, found, time.monotonic() - began)
        self._tidy(table)

    def _is_told(self, table: NegativesTable) -> bool:
        """Whether the story has it: the driver may have died right behind the manifest, or another one written it."""
        events = self._journal.ledger.events()
        return table.digest in self._told | {event.get("digest") for event in events if event["event"] == _MINED}

    def _tell(self, era: Era, table: NegativesTable, found: Found, seconds: float | None = None) -> None:
        """seconds: None where this driver did not mine it."""
        self._told.add(table.digest)
        fewer = f", {found.fewer:,} of them fewer than wanted" if found.fewer else ""
        took = "" if seconds is None else f", in {seconds:.0f} s"
        self._journal.event(
            _MINED,
            f"negatives v{era.version}: {found.negatives:,} for {found.mined:,} of {found.samples:,} samples{fewer}"
            f"{took}",
            version=era.version,
            step=era.start,
            digest=table.digest,
            negatives=found.negatives,
            mined=found.mined,
            fewer=found.fewer,
            none=found.none,
            seconds=seconds,
        )

    def _tidy(self, table: NegativesTable) -> None:
        """Costs no retry where it fails: the version is whole, and the next attempt tries again."""
        if table.uri in self._tidied:
            return
        from orchestrator.job_mining import tidy  # torch, which the driver starts without

        try:
            tidy(self._job, table)
            self._tidied.add(table.uri)
        except StorageError as error:
            self._journal.line(f"vectors and records of mining are left in {table.uri} ({error})")

    def _check(self) -> None:
        if self._halt.asked():
            raise _InterruptedError


class _InterruptedError(Exception):
    """The job is interrupted: mining goes on with the next go."""
