"""Whether the job shall end before its last step, and pauses that end where it shall.

Because it is interrupted (`stop_request.py`), or because another driver has the run (`lease.py`).
"""

from __future__ import annotations

import time

from orchestrator.interrupt import Interrupt
from orchestrator.journal import Journal
from orchestrator.lease import Lease, TakenOverError
from orchestrator.prepare import Prepared
from orchestrator.stop_request import StopRequest


class Halt:
    """Asked between attempts; while one runs, `watch.py` looks itself."""

    def __init__(self, job: Prepared, journal: Journal, interrupt: Interrupt, lease: Lease) -> None:
        self._name = job.spec.name
        self._stop = StopRequest(job.storage, job.run, journal, interrupt)
        self._interrupt = interrupt
        self._lease = lease

    def asked(self) -> bool:
        """Whether the job is interrupted. Raises TakenOverError."""
        if self._lease.lost:
            raise TakenOverError(self._name)
        return self._stop.is_made()

    def check_lease(self) -> None:
        """Looks afresh whether the run is still ours. Raises TakenOverError, StorageError."""
        self._lease.check()

    def accept(self) -> None:
        """An attempt was asked to end for the job's sake: the job is interrupted from now on."""
        self._stop.accept()

    def pause(self, seconds: float) -> None:
        """Waits, but not through an interrupt. Raises TakenOverError."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self.asked():
            self._interrupt.wait(min(left, 1.0))
