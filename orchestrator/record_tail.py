"""The metrics of an attempt as they come."""

from __future__ import annotations

import json
from typing import Any

from workers.run import RunDirectory
from workers.storage import Storage, join


class RecordTail:
    """Reads each record once."""

    def __init__(self, storage: Storage, run: RunDirectory, attempt: int) -> None:
        self._storage = storage
        self._folder = run.metrics
        self._prefix = join(run.metrics, f"a{attempt:05d}-")
        self._part, self._size, self._lines = "", 0, 0
        """The newest part that was read, and how much of it."""

    def new(self) -> list[dict[str, Any]]:
        """The records since the last call, oldest first. Raises StorageError; the next call has what this one lacks."""
        found: list[dict[str, Any]] = []
        part, size, count = self._part, self._size, self._lines
        for info in self._storage.list(self._folder):
            is_known = info.uri == part
            if not info.uri.startswith(self._prefix) or info.uri < part or (is_known and info.size == size):
                continue
            content = self._storage.read(info.uri)
            lines = content.splitlines()
            found += [json.loads(line) for line in lines[count if is_known else 0 :]]
            part, size, count = info.uri, len(content), len(lines)
        # Only now: what was found before a part that can't be read is found again.
        self._part, self._size, self._lines = part, size, count
        return found
