"""A stream over the ranges of an object, fetched ahead of its reader.

In: a function that fetches a range, and the object's size. Out: a raw stream, for `io.BufferedReader`.
`s3.py` makes one for every object that is read.

At most `read_ahead` + 1 ranges are in memory: the one that is read, and those behind it, which threads of
their own are fetching or have fetched. A thread takes some 0.1 ms to start and a range 10 ms or more to
come, so there is no pool, and none of a stream's threads outlives it. Buffers are used again and again:
fresh memory for each range doubles the time that the system spends on it.
"""

from __future__ import annotations

import io
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

RANGE_BYTES = 8 << 20  # a broken body costs at most this much again; above it S3 gets no faster

Fetch = Callable[[int, memoryview, threading.Event], None]
"""(first byte, what to fill, set when the stream closes): reads a range of an object."""


class RangeStream(io.RawIOBase):
    """Bytes `start` … `size` of an object."""

    def __init__(self, fetch: Fetch, start: int, size: int, read_ahead: int, *, aligned: bool) -> None:
        """`aligned` ranges begin at multiples of their length, the first one before `start`."""
        self._fetch, self._read_ahead = fetch, read_ahead
        self._closing = threading.Event()
        self._skip = start % RANGE_BYTES if aligned else 0
        firsts = range(start - self._skip, size if start < size else 0, RANGE_BYTES)
        self._spans = deque((first, min(RANGE_BYTES, size - first)) for first in firsts)
        self._ahead: deque[_Fetching] = deque()
        self._current, self._position = memoryview(b""), 0
        self._free: list[memoryview] = []
        self._failure: BaseException | None = None

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """What is left of a range at most; waits for the next one where nothing is."""
        if self._position == len(self._current) and not self._advance():
            return 0
        position = self._position
        count = min(len(buffer), len(self._current) - position)
        buffer[:count] = self._current[position : position + count]
        self._position += count
        return count

    def readall(self) -> bytes:
        """The rest. The inherited one asks for 8 KiB at a time."""
        rest = io.BytesIO()
        while self._position < len(self._current) or self._advance():
            rest.write(self._current[self._position :])
            self._position = len(self._current)
        return rest.getvalue()

    def close(self) -> None:
        """Ends what is being fetched: within the time that the server takes for the next part of a body."""
        self._closing.set()
        # A stream that nobody closed may be closed by the interpreter's end, where threads stand still.
        while self._ahead and not sys.is_finalizing():
            self._ahead.popleft().join()
        super().close()

    def _advance(self) -> bool:
        """Goes on to the next range; False at the end. A range that failed is never passed over."""
        if self._failure is not None:
            raise self._failure
        self._free.append(self._current)
        self._current, self._position = memoryview(b""), 0
        if not self._ahead and not self._spans:
            return False
        try:
            arrival = self._ahead.popleft().result if self._ahead else self._next_fetch()
            while self._spans and len(self._ahead) < self._read_ahead:
                self._ahead.append(_Fetching(self._next_fetch()))
            self._current = arrival()
        except BaseException as error:  # after a Ctrl-C too
            self._failure = error
            raise
        self._position, self._skip = self._skip, 0
        return True

    def _next_fetch(self) -> Callable[[], memoryview]:
        first, length = self._spans.popleft()
        buffer = self._free.pop() if self._free else memoryview(b"")
        if len(buffer) < length:
            buffer = memoryview(bytearray(length))
        return partial(_filled, self._fetch, first, buffer[:length], self._closing)


def _filled(fetch: Fetch, first: int, buffer: memoryview, closing: threading.Event) -> memoryview:
    fetch(first, buffer, closing)
    return buffer


class _Fetching(threading.Thread):
    """A range that is being fetched. It knows nothing of the stream, so a forgotten stream is collected."""

    def __init__(self, work: Callable[[], memoryview]) -> None:
        super().__init__(name="tandem-range", daemon=True)
        self._work = work
        self._buffer = memoryview(b"")
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._buffer = self._work()
        except Exception as error:
            self._error = error

    def result(self) -> memoryview:
        """The range, when it is here; raises what the fetch raised."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._buffer
