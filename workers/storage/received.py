"""How many bytes this process has read from storage: files and ranges of objects, tried again or not; what a cache gave
does not count."""

from __future__ import annotations

import threading


class Received:
    """A count that any thread may add to."""

    def __init__(self) -> None:
        self.bytes = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """So many more. Called a few times a megabyte."""
        with self._lock:
            self.bytes += count


received = Received()
"""Of this process."""
