"""Fencing: an attempt that was replaced can't commit any more.

A node that comes back, or a driver that was thought dead, may still run an attempt whose place another has taken.
So each attempt has a record in the run directory, which its driver creates before it starts, and rank 0 looks for
records of later attempts, and of later drivers, right before it writes a manifest. Records are numbered, and created
with a condition: of two that want the same number, one gets it.

    claim_attempt(storage, run, 3, token)               driver: FencedError where another driver has the number
    check_not_superseded(storage, run, 3, driver=1)     rank 0: FencedError where attempt 4 or driver 2 has a record
"""

from __future__ import annotations

import json
import re

from jobspecs.errors import AlreadyExistsError, TandemError
from workers.run import RunDirectory
from workers.storage import Storage, basename


class FencedError(TandemError):
    """Another attempt, or another driver, has taken the place of this one: final for it, whatever it does."""


def attempts(storage: Storage, run: RunDirectory) -> list[int]:
    """Numbers of the attempts that have a record, ascending."""
    names = (re.fullmatch(r"a(\d{5,})\.json", basename(info.uri)) for info in storage.list(run.attempts))
    return sorted(int(name[1]) for name in names if name)


def claim_attempt(storage: Storage, run: RunDirectory, number: int, token: str) -> None:
    """Creates the record of an attempt. `token` tells this claimant from any other.

    Raises FencedError: it has a record of another's; StorageError.
    """
    record = json.dumps({"attempt": number, "token": token}).encode()
    try:
        storage.write(run.attempt(number), record, if_absent=True)
    except AlreadyExistsError as error:
        # Or it is our own write, whose answer got lost.
        if storage.read(run.attempt(number)) != record:
            raise FencedError(
                f"attempt {number} of {run.name} was claimed by another driver ({run.attempt(number)}). Leave the run "
                "to that one, or start this job again when it has ended."
            ) from error


def newest_driver(storage: Storage, run: RunDirectory) -> int:
    """The number of the driver that has the run, from 1: see `orchestrator.lease`; 0 before the first."""
    names = (re.fullmatch(r"(\d{5,})\.json", basename(info.uri)) for info in storage.list(run.drivers))
    return max((int(name[1]) for name in names if name), default=0)


def check_not_superseded(storage: Storage, run: RunDirectory, number: int, driver: int) -> None:
    """Raises FencedError where a later attempt than `number`, or a later driver, has a record; StorageError.

    driver: the number of the attempt's own; 0 where the attempt has none.
    """
    newest = newest_driver(storage, run)
    if newest > driver:
        # It may have begun no attempt yet, and wait for the room that this one takes.
        raise FencedError(
            f"attempt {number} of {run.name} was begun by driver {driver} and must not commit: driver {newest} has the "
            f"run ({run.driver(newest)}). Leave it to that one."
        )
    last = max(attempts(storage, run), default=0)
    if last > number:
        raise FencedError(
            f"attempt {number} of {run.name} was replaced by attempt {last} and must not commit: {run.attempt(last)}. "
            "Leave the run to that one."
        )
