"""The user's request to stop a job, as its driver sees it."""

from __future__ import annotations

import threading


class Interrupt:
    """A request to stop that a signal handler may set: save, commit, end."""

    def __init__(self) -> None:
        self._requested = threading.Event()

    def request(self) -> None:
        """Asks the job to stop at its next step."""
        self._requested.set()

    def requested(self) -> bool:
        """Whether it was asked to."""
        return self._requested.is_set()

    def wait(self, seconds: float) -> None:
        """Sleeps, but not through a request."""
        self._requested.wait(seconds)
