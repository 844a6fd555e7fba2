"""One range of an object: asked for, checked, and asked for again.

In: an object as it should be and a range of it. Out: its bytes, or the error that the user reads. The
streams of `s3.py` call it, from background threads too.

botocore retries a request that gets no answer, but not a body that breaks off. So its client of ranges
retries nothing, and whatever fails of a range, it is tried again here as a whole.

What an answer is worth, its status does not tell: `rclone serve s3` sends a range with status 200, and
takes no notice of If-Match. So Content-Range, Content-Length and the ETag of every answer are checked.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

from jobspecs.errors import ChangedError, StorageError, UnreachableError
from workers.storage.backend import ObjectInfo
from workers.storage.errors import changed, http_status, transient, translated, unanswered
from workers.storage.received import received
from workers.storage.s3_client import Connection
from workers.storage.uris import bucket_and_key

_ATTEMPTS = 8
_BACKOFF_SECONDS = 0.5  # the seven pauses take 68 s on average: an outage of a minute is sat out
_LONGEST_PAUSE_SECONDS = 30.0
_CHUNK_BYTES = 256 << 10  # between two of these it is looked whether the bytes are still wanted


class NoLongerWantedError(Exception):
    """The stream was closed while its range was fetched. No user sees this."""


class _OtherBytesError(Exception):
    """An answer that is not the range which was asked for; the text says in what."""


class ObjectRanges:
    """Ranges of the object `info`, and of no other: ChangedError once another one has its name."""

    def __init__(self, connection: Connection, endpoint: str, info: ObjectInfo, seen: str) -> None:
        """`seen` says what was done with the object when `info` was learnt: "opened", "indexed"."""
        self._connection, self._endpoint = connection, endpoint
        self._info, self._seen = info, seen

    def fetch(self, first: int, buffer: memoryview, closing: threading.Event) -> None:
        """Fills the buffer with the bytes from `first` on; NoLongerWantedError soon after `closing` is set.

        The pauses between the attempts grow and are random, so that the ranks don't come back all at once.
        """
        causes: list[str] = []
        silent = True
        with translated("read", self._info.uri, self._endpoint):
            while True:
                try:
                    return self._attempt(first, buffer, closing)
                except Exception as error:
                    cause = _cause(error)
                    if cause is None or self._connection.contact.hopeless(error, len(causes) + 1):
                        raise
                    causes.append(cause)
                    silent = silent and unanswered(error)
                    if len(causes) == _ATTEMPTS:
                        raise self._in_vain(first, len(buffer), causes, silent) from error
                pause = min(_BACKOFF_SECONDS * 2 ** len(causes), _LONGEST_PAUSE_SECONDS)
                if closing.wait(random.uniform(0.5, 1.0) * pause):
                    raise NoLongerWantedError

    def _attempt(self, first: int, buffer: memoryview, closing: threading.Event) -> None:
        bucket, key = bucket_and_key(self._info.uri)
        try:
            answer = self._connection.ranges.get_object(
                Bucket=bucket,
                Key=key,
                Range=f"bytes={first}-{first + len(buffer) - 1}",
                IfMatch=f'"{self._info.etag}"',
            )
        except Exception as error:
            # 416: the condition was ignored, and the object has become shorter.
            if http_status(error) in (412, 416):
                raise self._changed() from error
            raise
        with contextlib.closing(answer["Body"]) as body:
            if answer.get("ETag", "").strip('"') != self._info.etag:
                raise self._changed()
            for _ in _chunks(body, self._bytes_before(answer, first, len(buffer)), closing):
                pass
            position = 0
            for chunk in _chunks(body, len(buffer), closing):
                buffer[position : position + len(chunk)] = chunk
                position += len(chunk)

    def _bytes_before(self, answer: dict[str, Any], first: int, length: int) -> int:
        """How many bytes of the body come before the range: none, or all that the object has there.

        A server may send the whole object in place of a range. Then it is read up to the range's end, anew for
        each range. That is right and wasteful; but S3 and rclone send ranges, so it gets no way of its own.
        """
        size, said = self._info.size, answer.get("ContentRange")
        if said is not None and said not in [f"bytes {first}-{first + length - 1}/{total}" for total in (size, "*")]:
            raise _OtherBytesError("another range")
        expected = size if said is None else length
        if answer.get("ContentLength", expected) != expected:
            raise _OtherBytesError("another length")
        return first if said is None else 0

    def _changed(self) -> ChangedError:
        return changed(self._info.uri, self._seen)

    def _in_vain(self, first: int, length: int, causes: list[str], silent: bool) -> StorageError:
        told = ", ".join(f"{count} × {cause}" for cause, count in Counter(causes).most_common())
        return (UnreachableError if silent else StorageError)(
            f"cannot read {self._info.uri}: its bytes {first}-{first + length - 1} could not be had in "
            f"{len(causes)} attempts: {told}. Check the network and {self._endpoint}"
        )


def _cause(error: Exception) -> str | None:
    """What to call a failure that another attempt may mend; None for any other."""
    return str(error) if isinstance(error, _OtherBytesError) else transient(error)


def _chunks(body: Any, count: int, closing: threading.Event) -> Iterator[bytes]:
    """The next `count` bytes of a body."""
    while count:
        if closing.is_set():
            raise NoLongerWantedError
        chunk = body.read(min(count, _CHUNK_BYTES))
        if not chunk:
            raise _OtherBytesError("broken body")
        count -= len(chunk)
        received.add(len(chunk))
        yield chunk
