"""The user's request to stop a job, as its driver sees it."""

from __future__ import annotations

import os
import signal
import threading


class Interrupt:
    """A request to stop that a signal handler may set: save, commit, end."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._at_once = threading.Event()

    def request(self) -> None:
        """Asks the job to stop at its next step."""
        self._requested.set()

    def at_once(self) -> None:
        """Ends the job without a further commit: what a second signal does. Called from any thread."""
        if not self._at_once.is_set():
            self._at_once.set()
            self._requested.set()
            os.kill(os.getpid(), signal.SIGTERM)  # Ray blocks SIGINT in what it starts

    def requested(self) -> bool:
        """Whether it was asked to."""
        return self._requested.is_set()

    def wait(self, seconds: float) -> None:
        """Sleeps, but not through a request."""
        self._requested.wait(seconds)
