"""The logs of a run's ranks, as its run directory keeps them (`keep_log.py`): read whole, or as they grow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from jobspecs.errors import UsageError
from orchestrator.keep_log import PART_BYTES, left_out
from workers.run import RunDirectory
from workers.storage import ObjectInfo, Storage, basename

_PART = re.compile(r"a(\d{5,})-r(\d{5,})-(\d{6,})\.log")


@dataclass(frozen=True)
class Line:
    """A line of a rank's log."""

    attempt: int
    rank: int
    text: str


@dataclass
class _Read:
    """How far a rank's log was read."""

    number: int = 0
    """Of the part."""
    at: int = 0
    """Bytes of it."""
    rest: bytes = b""
    """A line that has not ended."""


@dataclass
class KeptLogs:
    """Reads the logs of some ranks and attempts, each line once."""

    storage: Storage
    run: RunDirectory
    attempt: int | None = None
    """None: the newest, and then each newer one."""
    rank: int | None = None
    """None: all."""
    _read: dict[tuple[int, int], _Read] = field(default_factory=dict)

    def new(self) -> Iterator[Line]:
        """What has come since the last call, rank by rank; lines that have not ended yet are left for later.

        Raises StorageError.
        """
        logs: dict[tuple[int, int], list[tuple[int, ObjectInfo]]] = {}
        for info in self.storage.list(self.run.logs):
            if match := _PART.fullmatch(basename(info.uri)):
                logs.setdefault((int(match[1]), int(match[2])), []).append((int(match[3]), info))
        wanted = self.attempt or max((attempt for attempt, _ in logs), default=0)
        for (attempt, rank), parts in sorted(logs.items()):
            # One that was being read is read to its end, whatever has begun since.
            if (attempt == wanted or (attempt, rank) in self._read) and self.rank in (None, rank):
                read = self._read.setdefault((attempt, rank), _Read())
                for text in self._lines(read, parts):
                    yield Line(attempt, rank, text)

    def rest(self) -> Iterator[Line]:
        """The lines that have no end: nothing more will come."""
        for (attempt, rank), read in self._read.items():
            if read.rest:
                yield Line(attempt, rank, read.rest.decode(errors="replace"))
                read.rest = b""

    def check(self) -> None:
        """Raises UsageError where there is no such log."""
        if self._read:
            return
        there = {_PART.fullmatch(basename(info.uri)) for info in self.storage.list(self.run.logs)}
        named = sorted({(int(match[1]), int(match[2])) for match in there if match})
        attempts = _some({attempt for attempt, _ in named}) if named else "none"
        ranks = _some({rank for _, rank in named}) if named else "none"
        raise UsageError(
            f"{self.run.uri} keeps no such log. Attempts that it has logs of: {attempts}; ranks: {ranks}. Those of an "
            "attempt come some seconds after its start."
        )

    def _lines(self, read: _Read, parts: list[tuple[int, ObjectInfo]]) -> Iterator[str]:
        for number, info in parts:
            if number < read.number or (number == read.number and info.size <= read.at):
                continue
            if number > read.number:
                # The one before was read in part, or not at all where it is not kept any more.
                missing = (number - read.number) * PART_BYTES - read.at
                if missing:
                    read.rest += left_out(missing)
                read.number, read.at = number, 0
            content = self.storage.read(info.uri)
            *lines, read.rest = (read.rest + content[read.at :]).split(b"\n")
            read.at = len(content)
            if read.at >= PART_BYTES:
                read.number, read.at = number + 1, 0
            yield from (line.decode(errors="replace") for line in lines)


def _some(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
