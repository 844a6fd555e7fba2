"""Something that is done every few seconds beside everything else, until it is done or its owner has no more use of it.

with Repeating("recorder", 1.0, flush):          at once, then each second; the end of the block waits for the last
beat = Repeating("beating", 2.0, beat); beat.start(); …; beat.stop()              nobody waits
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType


class Repeating:
    """Calls `work` in a daemon thread, at once and then `seconds` after each call's end, until it is stopped or `work`
    returns True. What `work` raises ends it, and goes to `threading.excepthook`. A context manager."""

    def __init__(self, name: str, seconds: float, work: Callable[[], bool | None], *, once_more: bool = False) -> None:
        """once_more: whether `work` is called a last time when it is stopped: what came up meanwhile counts."""
        self._seconds = seconds
        self._work = work
        self._once_more = once_more
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name=name, daemon=True)

    def start(self) -> None:
        """Begins. To be called once."""
        self._thread.start()

    def stop(self) -> None:
        """Asks it to end. Does not wait: a call that runs goes on to its end."""
        self._stopping.set()

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Waits for its end. Returns whether it has come to it."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Ends it, and waits for that."""
        self.stop()
        self.join()

    def __enter__(self) -> Repeating:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _repeat(self) -> None:
        while not self._work():
            if self._stopping.wait(self._seconds):
                if self._once_more:
                    self._work()
                return
