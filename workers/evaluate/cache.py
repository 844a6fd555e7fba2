"""What an encoder has read and encoded, for the evaluations that come next: in memory, up to a bound.

The least recently used goes first. What is gone, or never fitted, is made again when it is asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any


class Cache:
    """Values by key, each with its size. A value's type is that of what was put there."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        """The value; None where there is none."""
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keeps `value`, of `size` bytes, at a `key` that has none, if it fits at all."""
        if size > self._max_bytes:
            return
        while self._bytes + size > self._max_bytes:
            self._bytes -= self._kept.popitem(last=False)[1][1]
        self._kept[key] = value, size
        self._bytes += size
