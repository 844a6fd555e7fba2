"""The backend of `file://`: a regular file is an object, whatever else stands there is none."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from jobspecs.errors import NotFoundError, StorageError
from workers.storage.backend import Bytes, ObjectInfo
from workers.storage.errors import already_exists, changed, translated
from workers.storage.received import received
from workers.storage.uris import is_temporary, path_of, temporary_name

_BUFFER_BYTES = 256 << 10


class FileStore:
    """Files on disks of this machine, or mounted there. Holds nothing."""

    endpoint = None

    def stat(self, uri: str) -> ObjectInfo:
        """NotFoundError for folders, and for devices, which would block a reader."""
        path = path_of(uri)
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise NotFoundError(f"file://{path} is a folder or a device and no file")
        return ObjectInfo(f"file://{path}", status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}")

    def exists(self, uri: str) -> bool:
        """One stat()."""
        try:
            self.stat(uri)
        except (FileNotFoundError, NotADirectoryError, NotFoundError):
            return False
        return True

    def list(self, prefix: str, *, deep: bool) -> Iterator[ObjectInfo]:
        """Links are followed: shards often lie on another disk. Unfinished writes are left out."""

        def refuse(error: OSError) -> None:  # os.walk() itself would skip what it can't read
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise error

        for parent, _, names in os.walk(path_of(prefix), onerror=refuse, followlinks=True):
            for name in names:
                # A file may go between the listing and its stat(): then it is not there.
                with contextlib.suppress(FileNotFoundError, NotFoundError):
                    if not is_temporary(name):
                        yield self.stat(f"file://{Path(parent, name)}")
            if not deep:
                return

    def open(self, uri: str, start: int, known: ObjectInfo | None) -> BinaryIO:
        """A buffered stream. A file that is replaced meanwhile is read on as it was."""
        now = self.stat(uri)
        if known is not None and (known.size, known.etag) != (now.size, now.etag):
            raise changed(uri, "indexed")
        file = _FileReader(uri)
        file.seek(start)
        return io.BufferedReader(file, _BUFFER_BYTES)

    def write(self, uri: str, data: Bytes, *, if_absent: bool) -> ObjectInfo:
        """A temporary file in the same folder, synced, then renamed, or linked for `if_absent`."""
        path = path_of(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / temporary_name()
        try:
            with temporary.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            if if_absent:
                _link(temporary, path)
            else:
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return self.stat(uri)

    def delete(self, uri: str) -> None:
        """One unlink(); the folder stays."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path_of(uri).unlink()

    def delete_unfinished(self, prefix: str, age_seconds: float) -> None:
        """Temporary files, by their time of change."""
        for parent, _, names in os.walk(path_of(prefix)):
            for path in (Path(parent, name) for name in names if is_temporary(name)):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > age_seconds:
                        path.unlink()


class _FileReader(io.FileIO):
    """A file whose read errors (a lost mount, a bad disk) are translated like all others."""

    def __init__(self, uri: str) -> None:
        super().__init__(path_of(uri))
        self._uri = uri

    def readinto(self, buffer: Any) -> Any:
        with translated("read", self._uri):
            count = super().readinto(buffer)
        received.add(count or 0)
        return count

    def readall(self) -> bytes:
        with translated("read", self._uri):
            content = super().readall()
        received.add(len(content))
        return content


def _link(temporary: Path, path: Path) -> None:
    """Gives the file its name, which must be free: a rename would replace what has it."""
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise already_exists(f"file://{path}") from error
    except OSError as error:
        raise StorageError(
            f"cannot create file://{path}: {error.strerror}. A conditional write needs hard links: "
            "choose a folder on a file system that has them"
        ) from error
