"""Tars -> samples, one after the other, by webdataset's own iteration and grouping.

A sample is the members of a tar that stand together and share a key (`000000001.jpg`,
`000000001.txt`). Its place in the tar is its identity: damage never moves the samples behind it to
other places, it makes samples with a `fault`, which become masked rows.
"""

from __future__ import annotations

import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NoReturn

from jobspecs.errors import TandemError
from workers.storage import Storage

if "torch" not in sys.modules:
    # webdataset imports torch where it finds it: 1.6 s and 200 MB that a loader process never uses.
    sys.modules["torch"] = None  # type: ignore[assignment]
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    del sys.modules["torch"]
else:
    from webdataset.tariterators import group_by_keys, tar_file_iterator

FAULTS = ("unreadable", "truncated", "missing_column", "undecodable")
"""Why a sample could not be used: its tar is no tar at its place; its tar ends before it; it has no
member for a column of the spec; a column can't be decoded."""


@dataclass(frozen=True)
class Sample:
    """One sample of a tar."""

    key: str
    columns: dict[str, bytes] = field(default_factory=dict)
    """Member contents by extension, in lower case: only those asked for."""
    fault: str | None = None
    """One of FAULTS, or None for a sample that could be read."""

    def column(self, extensions: tuple[str, ...]) -> bytes | None:
        """The member with the first of `extensions` that is there; None where none is."""
        return next((self.columns[name] for name in extensions if name in self.columns), None)


def extensions(column: str) -> tuple[str, ...]:
    """The extensions that a column of the spec names, as members have them: "JPG;png" -> ("jpg", "png")."""
    return tuple(column.lower().split(";"))


def read_samples(
    storage: Storage, uri: str, columns: frozenset[str], start: int = 0, stop: int | None = None
) -> Iterator[Sample]:
    """The samples `start` … `stop` of the tar at `uri`, with the members named in `columns`.

    With a `stop`, exactly `stop - start` samples come: what the tar does not give is a sample with a fault.
    Without one, samples come to the tar's end, and one with a fault at the end where it is damaged.

    Raises StorageError when the bytes can't be had at all.
    """
    fault = None if stop is None else "truncated"
    place = 0
    with storage.open(uri) as stream:
        try:
            for place, (key, members) in enumerate(_groups(stream, columns), start=1):
                if place > start:
                    yield Sample(key, members)
                if place == stop:
                    return
        except (tarfile.TarError, EOFError, ValueError, TypeError) as error:
            # TypeError comes of a gzip header that is cut. tarfile says "unexpected end of data" where the
            # tar is cut, else what is no header.
            fault = "truncated" if "unexpected end" in str(error) else "unreadable"
    if stop is None:
        if fault is not None:
            yield Sample("", fault=fault)
    else:
        for _ in range(max(place, start), stop):
            yield Sample("", fault=fault)


def _groups(stream: BinaryIO, columns: frozenset[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key and members of each sample."""

    def as_it_was(error: Exception) -> NoReturn:
        if isinstance(error, TandemError):  # webdataset appends the stream to what the user will read
            error.args = (str(error).removesuffix(f" @ {stream}"),)
        raise error

    members = ({**member, "__url__": ""} for member in tar_file_iterator(stream, handler=as_it_was))
    for group in group_by_keys(members, suffixes=columns):
        del group["__url__"]
        yield group.pop("__key__"), group
