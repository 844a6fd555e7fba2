"""The user's request to stop a job, as its driver sees it, and the signals that make it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupt:
    """A request to stop that a signal handler may set: save, commit, end."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._at_once = threading.Event()
        self.has_handlers = False
        """Whether a signal to this process reaches it: within `signals`, in the main thread."""

    def request(self) -> None:
        """Asks the job to stop at its next step."""
        self._requested.set()

    def at_once(self) -> None:
        """Ends the job without a further commit: what a second signal does. Called from any thread.

        Where no handler waits for it, a signal would end the whole process, such as a notebook that runs the job in a
        thread: the job then ends as after a first one, with a checkpoint.
        """
        if not self._at_once.is_set():
            self._at_once.set()
            self._requested.set()
            if self.has_handlers:
                os.kill(os.getpid(), signal.SIGTERM)  # Ray blocks SIGINT in what it starts

    def requested(self) -> bool:
        """Whether it was asked to."""
        return self._requested.is_set()

    def wait(self, seconds: float) -> None:
        """Sleeps, but not through a request."""
        self._requested.wait(seconds)


@contextlib.contextmanager
def signals(interrupt: Interrupt) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP (the terminal was closed) asks the job to stop with a checkpoint; the second
    stops it at once. A SIGHUP that is ignored, as `nohup` has it, stays so. Outside the main thread it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if interrupt.requested():
            raise KeyboardInterrupt
        interrupt.request()

    meant = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        meant.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in meant}
    interrupt.has_handlers = True
    try:
        yield
    finally:
        interrupt.has_handlers = False
        for number, handler in before.items():
            signal.signal(number, handler)
