"""`Storage`: finds the backend of a URI, calls it, and turns what it raises into errors for users."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Iterator
from typing import BinaryIO

from jobspecs.data import Cache
from jobspecs.errors import ChangedError
from jobspecs.storage import S3
from workers.storage.backend import Backend, Bytes, ObjectInfo
from workers.storage.errors import translated
from workers.storage.schemes import BACKENDS, scheme_of

_AWS = S3()
_READS = 5  # of an object that is replaced each time it is read


class Storage:
    """Objects of all schemes. Thread-safe; picklable, before use and after it.

    Besides the errors below, every method raises AccessDeniedError, NoCredentialsError,
    UnreachableError, or StorageError, and UsageError for what is no URI of an object.
    """

    def __init__(self, s3: S3 = _AWS, cache: Cache | None = None, read_ahead: int = 0) -> None:
        """`read_ahead` ranges of 8 MiB are fetched behind the one that is read of each open S3 object.

        `cache` keeps those of objects that are opened as `known`.
        """
        self._backends = {scheme: make(s3, cache, read_ahead) for scheme, make in BACKENDS.items()}

    @property
    def _s3(self) -> Backend:
        """Whose client tests make buckets with."""
        return self._backends["s3"]

    def stat(self, uri: str) -> ObjectInfo:
        """Size and tag of an object. NotFoundError where there is none, which a folder is too."""
        with self._backend("look up", uri) as backend:
            return backend.stat(uri)

    def exists(self, uri: str) -> bool:
        """Whether there is an object at `uri`, at the cost of one request; in a missing bucket is none."""
        with self._backend("look up", uri) as backend:
            return backend.exists(uri)

    def list(self, prefix: str, *, deep: bool = True) -> builtins.list[ObjectInfo]:
        """Everything below the folder `prefix`, sorted by URI; [] if there is nothing. At any depth, or what is
        in the folder itself."""
        with self._backend("list", prefix) as backend:
            return sorted(backend.list(prefix, deep=deep), key=lambda info: info.uri)

    def read(self, uri: str) -> bytes:
        """The whole object as it was at one moment; one that is replaced meanwhile is read anew. NotFoundError."""
        for _ in range(_READS - 1):
            with contextlib.suppress(ChangedError), self.open(uri) as stream:
                return stream.read()
        with self.open(uri) as stream:
            return stream.read()

    def open(self, uri: str, start: int = 0, *, known: ObjectInfo | None = None) -> BinaryIO:
        """A stream from byte `start` to the end (empty if that is behind the end). NotFoundError.

        `known` has the size and tag that the object must have, as an index says: ChangedError for another
        object. From S3 it comes in ranges of 8 MiB, with `known` without a request before the first one;
        ChangedError if the object is replaced meanwhile.

        Close it: until then S3 streams hold up to `read_ahead` + 1 ranges in memory.
        """
        if start < 0:
            raise ValueError(f"start is {start}: it counts bytes from the object's first")
        with self._backend("read", uri) as backend:
            return backend.open(uri, start, known)

    def write(self, uri: str, data: Bytes, *, if_absent: bool = False) -> ObjectInfo:
        """Create or replace the object in one step. AlreadyExistsError for `if_absent` and an object.

        To S3, what is larger than 32 MiB goes in parts, several at a time, and its size is looked up afterwards; what
        is `if_absent` goes in one request whatever its size.

        A conditional write to S3 whose answer got lost is retried, and then finds its own object:
        put a token into the data and read it back where that matters. StorageError for `if_absent` and
        a server that ignores conditions, as `rclone serve s3` does.
        """
        with self._backend("write", uri) as backend:
            return backend.write(uri, data, if_absent=if_absent)

    def delete(self, uri: str) -> None:
        """Remove an object; one that is already gone is no error."""
        with self._backend("delete", uri) as backend:
            backend.delete(uri)

    def delete_unfinished(self, prefix: str, age_seconds: float) -> None:
        """Remove what writes to the folder `prefix` and below have left that broke off: temporary files, and parts of
        S3 uploads. Only what is older than `age_seconds`: younger writes may still end."""
        with self._backend("delete", prefix) as backend:
            backend.delete_unfinished(prefix, age_seconds)

    @contextlib.contextmanager
    def _backend(self, verb: str, uri: str) -> Iterator[Backend]:
        """The backend of the URI's scheme; what it raises in the block is translated."""
        backend = self._backends[scheme_of(uri)]
        with translated(verb, uri, backend.endpoint):
            yield backend
