"""One attempt while it runs, as the driver sees it: looks each second whether its ranks hang and the run is still ours.

Nothing here waits for the storage: ranks that hang are found and ended also where the storage is what they hang on.
What the driver does in the run directory meanwhile is done beside it: `bookkeeping.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.bookkeeping import Bookkeeping
from orchestrator.failure import AttemptFailedError, Failure, Kind
from orchestrator.hang import Hang
from orchestrator.lease import Lease, TakenOverError
from orchestrator.monitor import Monitor
from orchestrator.stop_request import Why
from workers.train.task import Outcome

POLL_SECONDS = 1.0
END_SECONDS = 60.0
"""Ray Train notices in this time that its workers are killed; the next attempt does not wait for it any longer."""


@dataclass(frozen=True)
class Ended:
    """How an attempt ended: it committed `step`, or failed."""

    step: int = 0
    failure: Failure | None = None
    asked: Why | None = None
    """Why it was asked to end, if it was."""


class Watch:
    """Runs an attempt in a thread and watches it to its end."""

    def __init__(self, name: str, lease: Lease, monitor: Monitor, books: Bookkeeping) -> None:
        """name: the job's. books: of the attempt, not begun yet."""
        self._name = name
        self._lease = lease
        self._monitor = monitor
        self._books = books

    def run(self, work: Callable[[], Outcome]) -> Ended:
        """Waits for the end of `work`, which runs the attempt. Raises TakenOverError."""
        ended: list[int | Failure] = []

        def run() -> None:
            try:
                ended.append(work().step)
            except AttemptFailedError as error:
                ended.append(error.failure)
            except BaseException as error:
                ended.append(Failure(Kind.BUG, f"{type(error).__name__}: {error}", fingerprint=repr(error)))

        # Ray Train takes over SIGINT when it is called from the main thread; ours means "save first".
        thread = threading.Thread(target=run, name="attempt", daemon=True)
        try:
            hang = self._run(thread)
        except TakenOverError:
            self._monitor.kill()
            raise
        asked = self._books.asked
        end = ended[0] if ended else None
        if isinstance(end, int):  # where it seemed to hang, it was only slow
            return Ended(step=end, asked=asked)
        if hang is not None:
            end = Failure(Kind.HANG, hang.cause, hang.details, hang.rank)
        assert end is not None
        return Ended(failure=end, asked=asked)

    def _run(self, thread: threading.Thread) -> Hang | None:
        """Runs the thread of the attempt, which ends of itself, or of the hang that is returned."""
        stacks: dict[int, str] = {}
        with self._books:
            thread.start()
            hang = self._watch(thread)
            if hang is not None:
                stacks = self._monitor.stacks()
                self._kill(thread)
            self._books.end(stacks)
            while not self._books.join(POLL_SECONDS):
                self._check()
            self._check()
        return hang

    def _watch(self, thread: threading.Thread) -> Hang | None:
        """The hang that the attempt has come to; None where it has ended by itself."""
        while True:
            thread.join(POLL_SECONDS)
            self._check()
            if not thread.is_alive():
                return None
            if (hang := self._monitor.look()) is not None:
                return hang

    def _check(self) -> None:
        """Raises TakenOverError, and what the bookkeeping failed of."""
        if self._lease.lost:
            raise TakenOverError(self._name)
        self._books.check()

    def _kill(self, thread: threading.Thread) -> None:
        """Ends an attempt that hangs. What Ray starts meanwhile is ended too."""
        deadline = time.monotonic() + END_SECONDS
        while thread.is_alive() and time.monotonic() < deadline:
            self._monitor.kill()
            thread.join(POLL_SECONDS)
