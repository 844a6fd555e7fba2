"""Large objects, written to S3 in parts by boto3's transfer manager.

Each part is a request of its own, retried by botocore; several are under way at a time. An upload that fails is
aborted, so that no parts stay behind; one whose process dies leaves parts, which no listing shows: see
`Storage.delete_unfinished`.
"""

from __future__ import annotations

import io
from typing import Any

from workers.storage.backend import Bytes

MULTIPART_BYTES = 32 << 20
"""From this size on, an object is written in parts."""
PART_BYTES = 16 << 20
"""10,000 parts at most: objects of up to 156 GiB."""
_PARTS_AT_A_TIME = 8


def upload(client: Any, bucket: str, key: str, data: Bytes) -> None:
    """Creates or replaces an object; it is there when all of its parts are. Raises what botocore raises."""
    from boto3.s3.transfer import TransferConfig

    config = TransferConfig(
        multipart_threshold=PART_BYTES,
        multipart_chunksize=PART_BYTES,
        max_concurrency=_PARTS_AT_A_TIME,
        # The other client would be taken where awscrt is installed: it knows nothing of our retries.
        preferred_transfer_client="classic",
    )
    client.upload_fileobj(_Memory(data), bucket, key, Config=config)


class _Memory(io.RawIOBase):
    """Memory as a file, without a copy of it."""

    def __init__(self, data: Bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._data[self._at : self._at + len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        return self._at

    def tell(self) -> int:
        return self._at
