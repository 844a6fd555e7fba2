"""The backend of `s3://`: one request a call, except that reading takes one a range.

`s3_upload.py` writes in parts, `s3_range.py` fetches ranges, `read_ahead.py` makes a stream of them, `cache.py` keeps
them.
"""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from jobspecs.data import Cache
from jobspecs.errors import StorageError
from jobspecs.redaction import redacted
from jobspecs.storage import S3
from workers.storage.backend import Bytes, ObjectInfo
from workers.storage.cache import RangeCache
from workers.storage.errors import already_exists, http_status
from workers.storage.read_ahead import RANGE_BYTES, Fetch, RangeStream
from workers.storage.s3_client import Connection, connect
from workers.storage.s3_range import ObjectRanges
from workers.storage.s3_upload import MULTIPART_BYTES, upload
from workers.storage.uris import bucket_and_key, bucket_and_prefix, is_temporary, temporary_name

_BUFFER_BYTES = 256 << 10
_AWS = "AWS's endpoint"
_AWS_DOMAINS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")


class S3Store:
    """Objects of S3 or a server compatible with it. Connects, and opens the cache, when first used."""

    def __init__(self, s3: S3, cache: Cache | None, read_ahead: int) -> None:
        self._s3, self._cache, self._read_ahead = s3, cache, read_ahead
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._endpoint = s3.endpoint
        self._range_cache: RangeCache | None = None
        self._obeys_conditions = False

    def __reduce__(self) -> tuple[type[S3Store], tuple[S3, Cache | None, int]]:
        return S3Store, (self._s3, self._cache, self._read_ahead)

    @property
    def endpoint(self) -> str:
        """The server as messages name it."""
        if self._endpoint is None:
            # What keeps it from connecting is told by the call that this is asked for.
            with contextlib.suppress(Exception):
                url = self._url
                self._endpoint = _AWS if is_aws(url) else redacted(url)  # AWS_ENDPOINT_URL may have a password in it
        return self._endpoint or _AWS

    @property
    def client(self) -> Any:
        """The boto3 client of all threads, for everything but reading."""
        return self._connected.calls

    @property
    def _url(self) -> str:
        """The server's, which boto3 takes from AWS_ENDPOINT_URL or its files where the spec says none."""
        url: str = self.client.meta.endpoint_url
        return url

    @property
    def _connected(self) -> Connection:
        with self._lock:
            if self._connection is None:
                self._connection = connect(self._s3)
            return self._connection

    @property
    def _opened_cache(self) -> RangeCache | None:
        if self._cache is None:
            return None
        with self._lock:
            if self._range_cache is None:
                self._range_cache = RangeCache(Path(self._cache.folder), self._cache.max_size)
            return self._range_cache

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

    def list(self, prefix: str, *, deep: bool) -> Iterator[ObjectInfo]:
        """One request a 1000 objects. Probes of conditional writes are left out."""
        bucket, folder = bucket_and_prefix(prefix.rstrip("/"))
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=f"{folder}/" if folder else "", **({} if deep else {"Delimiter": "/"})
        )
        for page in pages:
            for entry in page.get("Contents", ()):
                uri = f"s3://{bucket}/{entry['Key']}"
                # Consoles keep empty "folders" as objects whose names end in a slash.
                if not uri.endswith("/") and not is_temporary(uri):
                    yield ObjectInfo(uri, entry["Size"], entry["ETag"].strip('"'))

    def open(self, uri: str, start: int, known: ObjectInfo | None) -> BinaryIO:
        """A buffered stream of ranges, all of the object that is there now, or of the `known` one."""
        info = self.stat(uri) if known is None else ObjectInfo(uri, known.size, known.etag)
        seen = "opened" if known is None else "indexed"
        fetch: Fetch = ObjectRanges(self._connected, self.endpoint, info, seen).fetch
        cache = None if known is None else self._opened_cache
        if cache is not None:
            fetch = partial(_through_cache, cache, info, fetch)
        ranges = RangeStream(fetch, start, info.size, self._read_ahead, aligned=cache is not None)
        return io.BufferedReader(ranges, _BUFFER_BYTES)

    def write(self, uri: str, data: Bytes, *, if_absent: bool) -> ObjectInfo:
        """One PUT, or one a part; three more requests before the first one with a condition."""
        bucket, key = bucket_and_key(uri)
        if len(data) >= MULTIPART_BYTES and not if_absent:
            upload(self.client, bucket, key, data)
            return self._arrived(uri, len(data))
        if if_absent:
            self._check_conditions(bucket, key)
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        try:
            answer = self.client.put_object(Bucket=bucket, Key=key, Body=bytes(data), **condition)
        except Exception as error:
            if if_absent and http_status(error) in (409, 412):
                raise already_exists(uri) from error
            raise
        return ObjectInfo(uri, len(data), answer["ETag"].strip('"'))

    def _arrived(self, uri: str, size: int) -> ObjectInfo:
        """The object after its upload in parts."""
        info = self.stat(uri)
        if info.size != size:
            raise StorageError(
                f"cannot write {uri}: {size} bytes were sent, {self.endpoint} has {info.size}. Look whether another "
                "process writes the same object, and into the server's log"
            )
        return info

    def delete(self, uri: str) -> None:
        """One DELETE, which S3 answers alike for a missing object."""
        bucket, key = bucket_and_key(uri)
        self.client.delete_object(Bucket=bucket, Key=key)

    def delete_unfinished(self, prefix: str, age_seconds: float) -> None:
        """Uploads in parts that were begun and not ended."""
        bucket, folder = bucket_and_prefix(prefix.rstrip("/"))
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=f"{folder}/")
        begun = [one for page in pages for one in page.get("Uploads", ())]
        for one in begun:
            if time.time() - one["Initiated"].timestamp() > age_seconds:
                self.client.abort_multipart_upload(Bucket=bucket, Key=one["Key"], UploadId=one["UploadId"])

    def _check_conditions(self, bucket: str, key: str) -> None:
        """StorageError if the server writes what its condition forbids; AWS is known not to."""
        if self._obeys_conditions or is_aws(self._url):
            return
        folder, slash, _ = key.rpartition("/")
        probe = {"Bucket": bucket, "Key": folder + slash + temporary_name()}
        self.client.put_object(**probe, Body=b"")
        try:
            self.client.put_object(**probe, Body=b"", IfNoneMatch="*")
        except Exception as error:
            if http_status(error) not in (409, 412):
                raise
            self._obeys_conditions = True
        finally:
            self.client.delete_object(**probe)
        if not self._obeys_conditions:
            raise StorageError(
                f"cannot create s3://{bucket}/{key}: {self.endpoint} ignores the condition that no such object be "
                "there (If-None-Match), so two writers would both win. Choose a folder, or a store that obeys it"
            )


def is_aws(url: str) -> bool:
    """Whether the server at `url` is AWS's own."""
    return (urlsplit(url).hostname or "").endswith(_AWS_DOMAINS)


def _through_cache(
    cache: RangeCache, info: ObjectInfo, fetch: Fetch, first: int, buffer: memoryview, closing: threading.Event
) -> None:
    """Fills the buffer from the cache, or else fetches the range and leaves it there."""
    key = (info.uri, info.etag, first // RANGE_BYTES)
    if not cache.get(*key, buffer):
        fetch(first, buffer, closing)
        cache.put(*key, buffer)
