"""A local folder that keeps ranges of S3 objects, for the next pass over them and for other processes.

In: the bytes of a range under (URI, ETag, number of the range). Out: the same bytes, or None. `s3.py` asks
for every range of an object that an index describes.

The folder holds

    <hash of the key>.range     a range, and its CRC-32 in four bytes: what fails that is removed, and a miss
    <random>.tmp                a range that is being written; its writer holds a lock on it
    lock                        held while files appear, vanish or are renamed; its content is their total

and never more than `max_bytes`, half-written files included: a file gets its full length when it appears,
under the lock. So that not every file is looked at for each new one, the total is kept. It is raised before
a file appears and lowered after one is gone, so whoever is killed in between leaves it too high, never too
low. It is counted anew when a process starts and when room has to be made.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from jobspecs.errors import StorageError
from workers.storage.errors import translated

logger = logging.getLogger(__name__)

_CHECKSUM_BYTES = 4
_TOTAL = struct.Struct("<q")
_SLACK = 32  # making room frees 1/32 more than it must: looking at 25,000 files takes some 0.1 s


class RangeCache:
    """A cache of at most `max_bytes` in `folder`. Thread-safe, and safe among the processes of a machine."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Creates the folder, and removes what killed writers left there.

        StorageError where the folder can't be written, or its disk has no room for `max_bytes`.
        """
        self._folder = folder.expanduser().absolute()
        self._most = max_bytes - _TOTAL.size
        self.failures = 0
        """How often the disk failed: these ranges were fetched, and not kept."""
        with translated("write", f"file://{self._folder}"):
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._locked() as total:
                self._count(total)
                room = total.value + shutil.disk_usage(self._folder).free
        if room < max_bytes:
            raise StorageError(
                f"the cache in file://{self._folder} can't have {max_bytes:,} bytes: with what it holds already its "
                f"disk has {room:,} for it. Lower data.loader.cache.max_size, free some space or choose another disk"
            )

    def get(self, uri: str, etag: str, number: int, buffer: memoryview) -> bool:
        """Fills the buffer with the range, if it is here, whole, and as long. It counts as used just now.

        Where it is not (False), the buffer's content is undefined.
        """
        path = self._path(uri, etag, number)
        try:
            with path.open("rb", buffering=0) as file:
                whole = os.fstat(file.fileno()).st_size == len(buffer) + _CHECKSUM_BYTES
                if whole and file.readinto(buffer) == len(buffer) and file.read() == _checksum(buffer):
                    os.utime(file.fileno())
                    return True
            self._discard(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._failed(error)
        return False

    def put(self, uri: str, etag: str, number: int, data: memoryview) -> None:
        """Keeps the range if there is room, or older ranges can make it. No failure of the disk is raised."""
        try:
            self._write(self._path(uri, etag, number), data)
        except OSError as error:
            self._failed(error)

    def _write(self, path: Path, data: memoryview) -> None:
        size = len(data) + _CHECKSUM_BYTES
        temporary = self._folder / f"{secrets.token_hex(8)}.tmp"
        with contextlib.ExitStack() as stack:
            with self._locked() as total:
                if path.exists() or not self._make_room(size, total):
                    return
                total.value += size
                file = stack.enter_context(temporary.open("xb"))
                stack.callback(self._discard, temporary)
                fcntl.flock(file, fcntl.LOCK_EX)
                file.truncate(size)
            file.write(data)
            file.write(_checksum(data))
            file.flush()
            with self._locked() as total:
                if not path.exists():  # else another process was faster
                    temporary.rename(path)

    def _discard(self, path: Path) -> None:
        with self._locked() as total:
            _remove(path, total)

    def _make_room(self, size: int, total: _Total) -> bool:
        """Whether `size` more bytes fit in, when the ranges that were used least recently have gone."""
        if self._most - total.value < size <= self._most:
            for path in self._count(total):
                if total.value + size <= self._most - self._most // _SLACK:
                    break
                _remove(path, total)
        return total.value + size <= self._most

    def _count(self, total: _Total) -> list[Path]:
        """Corrects the total; returns the ranges, those used least recently first. Killed writers' rest goes."""
        held, ranges = 0, []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(".tmp") and _abandoned(entry.path):
                    os.unlink(entry.path)
                elif entry.name.endswith((".tmp", ".range")):
                    status = entry.stat()
                    held += status.st_size
                    if entry.name.endswith(".range"):
                        ranges.append((status.st_mtime_ns, entry.path))
        total.value = held
        return [Path(path) for _, path in sorted(ranges)]

    @contextlib.contextmanager
    def _locked(self) -> Iterator[_Total]:
        """Alone among all processes and threads, with the total."""
        file = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            total = _Total(file)
            if total.missing:
                self._count(total)
            yield total
        finally:
            os.close(file)

    def _path(self, uri: str, etag: str, number: int) -> Path:
        key = hashlib.blake2b(f"{uri}\0{etag}\0{number}".encode(), digest_size=20)
        return self._folder / f"{key.hexdigest()}.range"

    def _failed(self, error: OSError) -> None:
        if self.failures == 0:
            logger.warning("the cache in %s keeps less than it could: %s", self._folder, error.strerror or error)
        self.failures += 1


class _Total:
    """The bytes of all ranges and temporary files, as the open lock file has them."""

    def __init__(self, file: int) -> None:
        self._file = file

    @property
    def missing(self) -> bool:
        return os.fstat(self._file).st_size != _TOTAL.size

    @property
    def value(self) -> int:
        (held,) = _TOTAL.unpack(os.pread(self._file, _TOTAL.size, 0))
        return int(held)

    @value.setter
    def value(self, held: int) -> None:
        os.pwrite(self._file, _TOTAL.pack(held), 0)


def _remove(path: Path, total: _Total) -> None:
    with contextlib.suppress(FileNotFoundError):
        size = path.stat().st_size
        path.unlink()
        total.value -= size


def _checksum(data: memoryview) -> bytes:
    return zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "little")


def _abandoned(path: str) -> bool:
    """Whether the writer of a temporary file is gone: its lock went with it, whatever killed it."""
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
