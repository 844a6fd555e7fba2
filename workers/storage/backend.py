"""What `Storage` asks of the backend of a scheme.

A backend raises what the system or botocore raises, and `Storage` translates that. Only a stream
that `open` returned is on its own: it translates its errors itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

Bytes = bytes | memoryview
"""What is written: memory that stays as it is meanwhile."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object: its URI, its size in bytes, and a tag that changes with its content (S3's ETag
    without quotes; for a file its modification time and size)."""

    uri: str
    size: int
    etag: str


class Backend(Protocol):
    """The objects of one scheme. Thread-safe and picklable. `Storage` documents the behaviour."""

    @property
    def endpoint(self) -> str | None:
        """The server as messages name it; None if there is none."""

    def stat(self, uri: str) -> ObjectInfo:
        """Size and tag of an object."""

    def exists(self, uri: str) -> bool:
        """Whether there is an object, found out at the lowest cost."""

    def list(self, prefix: str, *, deep: bool) -> Iterator[ObjectInfo]:
        """What is in a folder, and `deep` in those below it, in any order."""

    def open(self, uri: str, start: int, known: ObjectInfo | None) -> BinaryIO:
        """A stream from byte `start` on; ChangedError if the object isn't the `known` one."""

    def write(self, uri: str, data: Bytes, *, if_absent: bool) -> ObjectInfo:
        """Create or replace an object in one step; AlreadyExistsError for `if_absent` and an object."""

    def delete(self, uri: str) -> None:
        """Remove an object, if it is there."""

    def delete_unfinished(self, prefix: str, age_seconds: float) -> None:
        """Remove what writes that broke off have left in a folder and below."""
