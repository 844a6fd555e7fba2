"""What a rank writes to its output, kept in the run directory: by a process beside it, which outlives the rank's death.

with KeepLog(spec.storage.s3, run, attempt=2, rank=3): train(task)        on the rank

Ray leads a worker's output to files of its node, which go with the node. `python -m orchestrator.keep_log` follows
these files, and is told that the rank has ended, in whatever way, by the end of its own input: so the last words of a
rank that was killed are kept too. None of it can fail the rank, and none of its work is done in the rank's process.

A log is a series of parts of PART_BYTES, the last one written anew as it grows. Of a long one the first and the newest
parts are kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from jobspecs.errors import StorageError
from jobspecs.redaction import before_open_key, behind_cut_key, redacted
from jobspecs.storage import S3
from workers.run import RunDirectory
from workers.storage import Storage

PART_BYTES = 256 * 1024
FIRST_PARTS, NEWEST_PARTS = 4, 12
"""Of an attempt's rank, 4 MiB at most."""
PENDING_BYTES = 8 * PART_BYTES
"""Of a log that grows faster than it can be kept, so much is taken at a time, and the rest left out."""
LOOK_SECONDS = 3.0
END_SECONDS = 5.0
"""How long the end of a rank waits for its last lines to be kept. They are kept later too, if the rank's node stays."""
NICENESS = 10


@dataclass(frozen=True)
class _Task:
    """What the process beside a rank is told."""

    s3: str
    """As JSON."""
    run: str
    attempt: int
    rank: int
    files: dict[str, int]
    """How long each was when the rank began: what was there is not the rank's."""
    who: str
    """The log's first line."""


class KeepLog:
    """Keeps this process's output while the context is open, and to its end if it dies."""

    def __init__(self, s3: S3, run: RunDirectory, *, attempt: int, rank: int) -> None:
        files = output_files()
        since = time.strftime("%Y-%m-%d %H:%M:%S %z")
        who = f"rank {rank} of attempt {attempt}: process {os.getpid()} on {socket.gethostname()}, since {since}"
        self._task = _Task(s3.model_dump_json(), run.uri, attempt, rank, files, who)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> KeepLog:
        if not self._task.files:
            return self
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.keep_log"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ray ends the group of a worker with it
            )
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(asdict(self._task)).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            print(f"the log of rank {self._task.rank} is not kept: {error}", file=sys.stderr)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._process.stdin.close()
            self._process.wait(END_SECONDS)


def output_files() -> dict[str, int]:
    """The files that this process's output goes to, and how long each is, in bytes; none where it goes to a terminal or
    a pipe. It need not be there any more under its name."""
    found = {}
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            about = os.fstat(descriptor)
            if stat.S_ISREG(about.st_mode):
                found[os.readlink(f"/proc/self/fd/{descriptor}")] = about.st_size
    return found


class LogParts:
    """A log that grows, in parts. Holds what is not written yet."""

    def __init__(self, storage: Storage, part: Callable[[int], str]) -> None:
        """part: the URI of a part, from 0."""
        self._storage = storage
        self._part = part
        self._number = 0
        self._kept = bytearray()
        """The part that grows, and what comes behind it."""
        self._written = 0
        self._left_out = 0
        """Bytes that were to follow what is written. Said when it is written: a line for it could be left out, too."""

    def append(self, text: bytes) -> None:
        """Adds to it; durable after the next `flush`. What can't be held is left out, and said to be."""
        self._kept += text
        if (over := len(self._kept) - PENDING_BYTES) > 0:
            del self._kept[self._written : self._written + over]
            self._left_out += over

    def leave_out(self, count: int) -> None:
        """So many bytes did not get here. What waits before them is left out with them."""
        self._left_out += count + len(self._kept) - self._written
        del self._kept[self._written :]

    def flush(self) -> None:
        """Raises StorageError; nothing is lost, the next flush tries again."""
        while self._left_out or len(self._kept) > self._written:
            told = left_out(self._left_out) if self._left_out else b""
            kept = self._kept[: self._written] + told + self._kept[self._written :]
            part = bytes(kept[:PART_BYTES])
            self._storage.write(self._part(self._number), part)
            self._kept, self._written, self._left_out = kept, len(part), 0
            if len(part) == PART_BYTES:
                del self._kept[:PART_BYTES]
                self._number, self._written = self._number + 1, 0
                if self._number - NEWEST_PARTS >= FIRST_PARTS:
                    self._storage.delete(self._part(self._number - NEWEST_PARTS))


def left_out(count: int) -> bytes:
    """The line that stands for so many bytes."""
    return f"\n[… {count:,} bytes left out …]\n".encode()


class _Followed:
    """A file that grows."""

    def __init__(self, path: str, start: int) -> None:
        self._path = path
        self._at = start

    def new(self) -> tuple[int, bytes]:
        """What has come since the last call: how much of it was skipped, and the newest PENDING_BYTES of it."""
        try:
            size = Path(self._path).stat().st_size
            if size < self._at:  # begun anew
                self._at = 0
            skipped = max(0, size - self._at - PENDING_BYTES)
            with open(self._path, "rb") as file:
                file.seek(self._at + skipped)
                text = file.read(PENDING_BYTES)
        except OSError:
            return 0, b""
        self._at += skipped + len(text)
        return skipped, text


def follow(task: _Task, ended: Callable[[], bool]) -> None:
    """Keeps a rank's log until it has `ended`, which waits a while for it."""
    run = RunDirectory(task.run)
    storage = Storage(S3.model_validate_json(task.s3))
    parts = LogParts(storage, lambda number: run.log_part(task.attempt, task.rank, number))
    files = [_Followed(path, size) for path, size in task.files.items()]
    begun = [b""] * len(files)  # of each what has no end yet: half of a secret looks like none
    parts.append(f"{task.who}\n".encode())
    is_last = False
    while not is_last:
        is_last = ended()
        for number, file in enumerate(files):
            skipped, text = file.new()
            if skipped:
                cut = _first_whole(text)
                parts.leave_out(len(begun[number]) + skipped + cut)
                text = text[cut:]
            else:
                text = begun[number] + text
            end = _whole(text)
            if is_last or len(text) - end > PART_BYTES:
                end = len(text)
            parts.append(_without_secrets(text[:end]))
            begun[number] = text[end:]
        # A storage that is away for now: the next look tries again.
        with contextlib.suppress(StorageError):
            parts.flush()


def _whole(text: bytes) -> int:
    """How much of it can be judged by itself: whole lines, and whole private keys, which have several."""
    end = text.rfind(b"\n") + 1
    return before_open_key(text[:end].decode("latin-1"))  # a letter a byte


def _first_whole(text: bytes) -> int:
    """Where the first whole line begins of a text whose beginning was skipped, and no private key goes on."""
    start = text.find(b"\n") + 1
    return start + behind_cut_key(text[start:].decode("latin-1"))


def _without_secrets(text: bytes) -> bytes:
    return redacted(text.decode(errors="surrogateescape")).encode(errors="surrogateescape")


def main() -> None:
    """The process beside a rank."""
    os.nice(NICENESS)
    task = _Task(**json.loads(sys.stdin.buffer.readline()))
    follow(task, lambda: bool(select.select([sys.stdin], [], [], LOOK_SECONDS)[0]))


if __name__ == "__main__":
    main()
