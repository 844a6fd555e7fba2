"""One shard -> its samples, from any place on.

A sample's place in the tar is its identity: damage never moves the samples behind it to other places, it
makes samples with a `fault`, which become masked rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from workers.data.tar import TarDamagedError, TarSample, tar_samples
from workers.storage import ObjectInfo, Storage

FAULTS = ("unreadable", "truncated", "missing_column", "undecodable", "too_large")
"""Why a sample could not be used: its tar can't be read at its place; its tar ends before it; it has no
member for a column of the spec; a column can't be decoded; its image has more pixels than the spec allows."""

OFFSET_STRIDE = 256
"""The index knows where every so many samples begin in the tar."""

_JUMP_BYTES = 32 << 20
"""Fewer are read over: a new request would take about as long, and the ranges fetched ahead would be lost."""


@dataclass(frozen=True)
class Shard:
    """What the index knows of a shard."""

    uri: str
    size: int
    etag: str
    stored: int
    """Samples in the tar."""
    offsets: NDArray[np.int64]
    """Byte at which sample 0, OFFSET_STRIDE, 2 · OFFSET_STRIDE, … begins; empty if that is not known."""
    kept: NDArray[np.int64] | None
    """Places of the samples that the source's filters keep, ascending; None keeps all."""

    @property
    def samples(self) -> int:
        """Samples that are kept."""
        return self.stored if self.kept is None else len(self.kept)


@dataclass(frozen=True)
class Sample:
    """One sample of a tar."""

    key: str
    columns: dict[str, bytes] = field(default_factory=dict)
    """Member contents by extension, in lower case: only those asked for."""
    fault: str | None = None
    """One of FAULTS, or None for a sample that could be read."""
    place: int = -1
    """Number of the sample in its tar, from 0."""

    def column(self, extensions: tuple[str, ...]) -> bytes | None:
        """The member with the first of `extensions` that is there; None where none is."""
        return next((self.columns[name] for name in extensions if name in self.columns), None)


def extensions(column: str) -> tuple[str, ...]:
    """The extensions that a column of the spec names, as members have them: "JPG;png" -> ("jpg", "png")."""
    return tuple(column.lower().split(";"))


def read_samples(
    storage: Storage, shard: Shard, columns: tuple[tuple[str, ...], ...], start: int = 0
) -> Iterator[Sample]:
    """The samples of `shard` that are kept, from the `start`-th of them to the last one, exactly as many as
    the index says: one that the tar does not give has a fault.

    `columns`: alternatives of extensions, each of which a sample must have one of.

    Raises StorageError when the bytes can't be had at all, DataError when the shard is not the one that was
    indexed.
    """
    places = range(shard.stored)[start:] if shard.kept is None else shard.kept[start:].tolist()
    with contextlib.closing(_Tar(storage, shard, columns)) as tar:
        for place in places:
            yield tar.sample(place)


def read_unindexed(storage: Storage, shard: ObjectInfo, columns: tuple[tuple[str, ...], ...]) -> Iterator[Sample]:
    """All samples of a shard, to the tar's end; behind them one with a fault where it is damaged.

    Raises StorageError, DataError as `read_samples`.
    """
    wanted = frozenset(extension for alternatives in columns for extension in alternatives)
    place = -1
    with storage.open(shard.uri, known=shard) as stream:
        try:
            for place, found in enumerate(tar_samples(stream, wanted)):
                yield Sample(found.key, found.members, _fault(found, columns), place)
        except TarDamagedError as damage:
            yield Sample("", fault=damage.cause, place=place + 1)


class _Tar:
    """An open tar that gives its samples by ascending place."""

    def __init__(self, storage: Storage, shard: Shard, columns: tuple[tuple[str, ...], ...]) -> None:
        self._storage = storage
        self._shard = shard
        self._columns = columns
        self._wanted = frozenset(extension for alternatives in columns for extension in alternatives)
        self._stream: BinaryIO | None = None
        self._samples: Iterator[TarSample] = iter(())
        self._opened_at = 0
        """Place of the first sample of the open stream."""
        self._next = 0
        """Place of the sample that comes next."""
        self._position = 0
        """Byte that was reached, less than a sample ago."""
        self._damage: str | None = None

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def sample(self, place: int) -> Sample:
        """The sample at `place`, which is behind those that were asked for before."""
        found = self._read(place)
        if found is None:
            found = self._read(place)  # from a place behind the damage, where the index knows one
        if found is None:
            return Sample("", fault=self._damage, place=place)
        return Sample(found.key, found.members, _fault(found, self._columns), place)

    def _read(self, place: int) -> TarSample | None:
        """None where damage is met, or was met before."""
        self._seek(place)
        while self._damage is None:
            try:
                found = next(self._samples)
            except StopIteration:
                self._damage = "truncated"
            except TarDamagedError as damage:
                self._damage = damage.cause
            else:
                if found.offset != self._known_offset(self._next, found.offset):
                    self._damage = "unreadable"  # a damaged name made two samples of one, or one of two
                    break
                self._position = found.offset
                self._next += 1
                if self._next > place:
                    return found
        return None

    def _seek(self, place: int) -> None:
        """Opens the tar where the index knows a sample to begin, if that saves reading or leads past damage."""
        begin = place - place % OFFSET_STRIDE if len(self._shard.offsets) else 0
        offset = self._known_offset(begin, 0)
        is_behind_damage = self._damage is not None and begin >= self._next
        is_far = begin > self._next and offset - self._position > _JUMP_BYTES
        if self._stream is None or (begin > self._opened_at and (is_behind_damage or is_far)):
            self.close()
            known = ObjectInfo(self._shard.uri, self._shard.size, self._shard.etag)
            self._stream = self._storage.open(self._shard.uri, offset, known=known)
            self._samples = tar_samples(self._stream, self._wanted, offset)
            self._opened_at = self._next = begin
            self._position = offset
            self._damage = None

    def _known_offset(self, place: int, otherwise: int) -> int:
        """Byte at which the sample at `place` begins by the index."""
        stride, rest = divmod(place, OFFSET_STRIDE)
        return otherwise if rest or not len(self._shard.offsets) else int(self._shard.offsets[stride])


def _fault(found: TarSample, columns: tuple[tuple[str, ...], ...]) -> str | None:
    if found.ambiguous:
        return "unreadable"
    if all(any(extension in found.members for extension in alternatives) for alternatives in columns):
        return None
    return found.damage or "missing_column"
