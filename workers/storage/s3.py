"""The backend of `s3://`: one request a call, except that reading takes one a range.

botocore retries a request that gets no answer, but not a body that breaks off. So an object is read
in ranges, each of them checked and retried here.
"""

from __future__ import annotations

import contextlib
import io
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from jobspecs.errors import StorageError
from jobspecs.storage import S3
from workers.storage.backend import ObjectInfo
from workers.storage.errors import already_exists, http_status, translated
from workers.storage.s3_client import connect
from workers.storage.uris import bucket_and_key, bucket_and_prefix

_RANGE_BYTES = 8 << 20  # a broken body costs at most this much again; above it S3 gets no faster
_BUFFER_BYTES = 256 << 10
_BODY_ATTEMPTS = 5
_BACKOFF_SECONDS = 0.5


class S3Store:
    """Objects of S3 or a server compatible with it. Connects when it is first used."""

    def __init__(self, s3: S3) -> None:
        self._s3 = s3
        self._lock = threading.Lock()
        self._client: Any = None

    def __reduce__(self) -> tuple[type[S3Store], tuple[S3]]:
        return S3Store, (self._s3,)

    @property
    def endpoint(self) -> str:
        """The server as messages name it."""
        return self._s3.endpoint or "AWS's endpoint"

    @property
    def client(self) -> Any:
        """The boto3 client of all threads."""
        with self._lock:
            if self._client is None:
                self._client = connect(self._s3)
            return self._client

    def stat(self, uri: str) -> ObjectInfo:
        """One HEAD; a second one tells a missing bucket from a missing object."""
        bucket, key = bucket_and_key(uri)
        try:
            head = self.client.head_object(Bucket=bucket, Key=key)
        except Exception as error:
            if http_status(error) == 404:  # a HEAD has no body that says what is missing
                self.client.head_bucket(Bucket=bucket)
            raise
        return ObjectInfo(uri, head["ContentLength"], head["ETag"].strip('"'))

    def exists(self, uri: str) -> bool:
        """One HEAD."""
        bucket, key = bucket_and_key(uri)
        try:
            self.client.head_object(Bucket=bucket, Key=key)
        except Exception as error:
            if http_status(error) == 404:
                return False
            raise
        return True

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """One request a 1000 objects."""
        bucket, folder = bucket_and_prefix(prefix.rstrip("/"))
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=f"{folder}/" if folder else ""
        )
        for page in pages:
            for entry in page.get("Contents", ()):
                if not entry["Key"].endswith("/"):  # consoles keep empty "folders" as such objects
                    uri = f"s3://{bucket}/{entry['Key']}"
                    yield ObjectInfo(uri, entry["Size"], entry["ETag"].strip('"'))

    def open(self, uri: str, start: int) -> BinaryIO:
        """A buffered stream of ranges, all of the object that is there now."""
        info = self.stat(uri)
        ranges = _RangeReader(lambda first, length: self._range(info, first, length), start, info.size)
        return io.BufferedReader(ranges, _BUFFER_BYTES)

    def write(self, uri: str, data: bytes, *, if_absent: bool) -> ObjectInfo:
        """One PUT."""
        bucket, key = bucket_and_key(uri)
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        try:
            answer = self.client.put_object(Bucket=bucket, Key=key, Body=data, **condition)
        except Exception as error:
            if if_absent and http_status(error) in (409, 412):
                raise already_exists(uri) from error
            raise
        return ObjectInfo(uri, len(data), answer["ETag"].strip('"'))

    def delete(self, uri: str) -> None:
        """One DELETE, which S3 answers alike for a missing object."""
        bucket, key = bucket_and_key(uri)
        self.client.delete_object(Bucket=bucket, Key=key)

    def _range(self, info: ObjectInfo, first: int, length: int) -> bytes:
        """Bytes [first, first + length) of the object that `info` describes, in several attempts.

        Their pauses grow and are random, so that the ranks don't come back all at once.
        """
        from botocore.exceptions import BotoCoreError

        bucket, key = bucket_and_key(info.uri)
        cause: Exception | None = None
        wanted = {"Range": f"bytes={first}-{first + length - 1}", "IfMatch": f'"{info.etag}"'}
        with translated("read", info.uri, self.endpoint):
            for attempt in range(_BODY_ATTEMPTS):
                if attempt:
                    time.sleep(random.uniform(0.5, 1.0) * _BACKOFF_SECONDS * 2**attempt)
                answer = self.client.get_object(Bucket=bucket, Key=key, **wanted)
                try:
                    with contextlib.closing(answer["Body"]) as body:
                        data: bytes = body.read(length + 1)  # not more, if the server ignores Range
                except (BotoCoreError, OSError) as error:
                    cause = error
                else:
                    if len(data) == length:
                        return data
            raise StorageError(
                f"cannot read {info.uri}: the {length} bytes from {first} on broke off or had another "
                f"length, {_BODY_ATTEMPTS} times over. Check the network and {self.endpoint}"
            ) from cause


class _RangeReader(io.RawIOBase):
    """Reads an object of `size` bytes through `fetch(first, length)`, one range after the other."""

    def __init__(self, fetch: Callable[[int, int], bytes], start: int, size: int) -> None:
        self._fetch, self._next, self._size = fetch, start, size
        self._fetched = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._fetched and self._next < self._size:
            self._fetched = memoryview(self._fetch(self._next, min(_RANGE_BYTES, self._size - self._next)))
            self._next += len(self._fetched)
        count = min(len(buffer), len(self._fetched))
        buffer[:count] = self._fetched[:count]
        self._fetched = self._fetched[count:]
        return count

    def readall(self) -> bytes:
        # The inherited one asks for 8 KiB at a time.
        rest = [bytes(self._fetched)]
        self._fetched = memoryview(b"")
        for first in range(self._next, self._size, _RANGE_BYTES):
            rest.append(self._fetch(first, min(_RANGE_BYTES, self._size - first)))
        self._next = self._size
        return b"".join(rest)
