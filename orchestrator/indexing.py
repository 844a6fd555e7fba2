"""The index of a source, before anything is started: its shards, their sizes and their counts.

What an earlier index says of a shard with the same URI, size and ETag is taken from there. Of the others,
counts come from img2dataset's files beside them; where there are none, and wherever there are filters, the
tars are read, by Ray tasks where there are many.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jobspecs.data import Source
from jobspecs.errors import DataError, NotFoundError, StorageError, TandemError
from orchestrator.scanning import Found, Scanner, counted
from workers.data.filters import canonical
from workers.data.find_shards import Folders, files_beside, find_shards
from workers.data.index import Index
from workers.data.scan import Scan
from workers.storage import ObjectInfo, Storage, join

_KEPT_FROM = 256
"""Counts that stand beside fewer new shards are looked up again the next time: it takes a second."""

logger = logging.getLogger(__name__)


def build_index(
    source: Source,
    folders: Folders,
    scanner: Scanner,
    earlier: Sequence[Index] = (),
    *,
    read_all: bool = False,
    keep_at: str | None = None,
) -> Index:
    """The index of `source`. What `earlier` ones say of a shard is taken from the first that has it.

    With `read_all` the tars are read also where their counts stand beside them, for the offsets that let a
    loader begin in the middle of one. What is found out anew is kept at `keep_at` for the next time, whatever
    else is wrong: nobody waits for the same tars twice.

    Raises DataError: shards that are missing, empty, damaged or named twice, all that were found; StorageError.
    """
    shards = find_shards(source.urls, folders)
    filters = canonical(source)
    earlier = [index for index in earlier if index.filters == filters]
    beside = files_beside(shards, folders)
    for index in earlier:
        if _lists(index, shards, beside) and (_has_offsets(index) or not read_all):
            return replace(index, source=source.name)
    scans = _known(shards, beside, earlier, read_all)
    new = [shard for shard in shards if shard not in scans]
    faults: list[TandemError] = []
    uncounted: list[ObjectInfo] = []
    try:
        if not (source.filters or read_all):
            _take(counted(new, folders), scans, faults)
        uncounted = [shard for shard in new if shard not in scans]
        if uncounted and not faults:  # reading may take hours, and these are to be mended first
            _take(scanner(source, uncounted), scans, faults)
    finally:
        good = [shard for shard in shards if shard in scans]
        tags = dict(zip(shards, beside, strict=True))
        index = Index.of(source.name, filters, good, [replace(scans[shard], beside=tags[shard]) for shard in good])
        if keep_at is not None and (uncounted or len(new) >= _KEPT_FROM):
            _keep(index, keep_at, folders.storage)
    _raise(faults)
    if not index.samples.sum():
        raise DataError(_nothing(source, len(shards)))
    return index


def _take(found: Iterable[Found], scans: dict[ObjectInfo, Scan], faults: list[TandemError]) -> None:
    for shard, scan in found:
        if isinstance(scan, TandemError):
            faults.append(scan)
        else:
            scans[shard] = scan


def _raise(faults: list[TandemError]) -> None:
    """What is wrong with the data, all of it; else the first of what else went wrong."""
    damaged = [str(fault) for fault in faults if isinstance(fault, DataError)]
    if damaged:
        raise DataError("\n".join(damaged))
    if faults:
        raise faults[0]


def _nothing(source: Source, shards: int) -> str:
    if not source.filters:
        return f"source {source.name!r} has no sample in {shards} shards. Check its urls."
    fields = ", ".join(filter_.field for filter_ in source.filters)
    return (
        f"source {source.name!r} has no sample in {shards} shards that its filters keep. Check their bounds, and "
        f"that the metadata have the fields {fields}: samples without them are left out."
    )


def kept_index(source: Source, storage_root: str) -> str:
    """Where the index of a source is kept for the next plan and run: one that reads no tar twice."""
    what = json.dumps([source.urls, canonical(source)])
    return join(storage_root, "indexes", f"{source.name}-{hashlib.sha256(what.encode()).hexdigest()[:12]}.parquet")


def read_index(storage: Storage, uri: str) -> Index | None:
    """The index at `uri`, None where there is none. Raises DataError, StorageError."""
    from workers.data.index_file import from_parquet

    try:
        return from_parquet(storage.read(uri), uri)
    except NotFoundError:
        return None


def known_index(storage: Storage, uri: str) -> Index | None:
    """The index at `uri`, None where there is none that can be read: what it would say is found out anew, and
    the log says so. Raises StorageError."""
    try:
        return read_index(storage, uri)
    except DataError as error:
        logger.warning("an index that was kept is of no use, and is made again: %s", error)
        return None


def _lists(index: Index, shards: list[ObjectInfo], beside: list[str]) -> bool:
    """Whether the index is one of exactly these shards: that of a large source is taken whole."""
    return (
        index.sizes.tolist() == [shard.size for shard in shards]
        and list(index.uris) == [shard.uri for shard in shards]
        and list(index.etags) == [shard.etag for shard in shards]
        and list(index.beside) == beside
    )


def _has_offsets(index: Index) -> bool:
    return bool(((np.diff(index.offsets.ends, prepend=0) > 0) | (index.stored == 0)).all())


def _known(
    shards: list[ObjectInfo], beside: list[str], earlier: Sequence[Index], read_all: bool
) -> dict[ObjectInfo, Scan]:
    """What earlier indexes say of these shards, beside which lie the same files as then."""
    wanted = dict(zip(shards, beside, strict=True))
    known: dict[ObjectInfo, Scan] = {}
    for index in earlier:
        rows = zip(index.uris, index.sizes.tolist(), index.etags, index.beside, strict=True)
        for number, (*row, tag) in enumerate(rows):
            shard = ObjectInfo(*row)
            is_enough = not read_all or len(index.offsets[number]) or not index.stored[number]
            if wanted.get(shard) == tag and shard not in known and is_enough:
                known[shard] = index.scan(number)
    return known


def _keep(index: Index, uri: str, storage: Storage) -> None:
    """Writes an index for the next time, where that can be done."""
    from workers.data.index_file import to_parquet

    try:
        storage.write(uri, to_parquet(index))
    except StorageError as error:
        logger.warning("what was found out about the shards could not be kept, and will be again: %s", error)


@dataclass(frozen=True)
class IndexSummary:
    """What `tandem index` answers; its JSON."""

    shards: int
    shard_bytes: int
    samples: int
    shards_with_offsets: int
    """Of these a loader can read from the middle."""
    out: str | None
    """URI of the index file."""
    out_bytes: int


def index_source(
    source: Source, storage: Storage, scanner: Scanner, out: str | None, *, read_all: bool
) -> IndexSummary:
    """Indexes a source, and keeps the index at `out` if that is given: one that is there is brought up to date.

    Raises DataError, StorageError.
    """
    from workers.data.index_file import to_parquet

    there = None if out is None else read_index(storage, out)
    earlier = [] if there is None else [there]
    index = build_index(source, Folders(storage), scanner, earlier, read_all=read_all, keep_at=out)
    content = to_parquet(index)
    if out is not None:
        storage.write(out, content)
    return IndexSummary(
        shards=len(index),
        shard_bytes=int(index.sizes.sum()),
        samples=int(index.samples.sum()),
        shards_with_offsets=int((np.diff(index.offsets.ends, prepend=0) > 0).sum()),
        out=out,
        out_bytes=len(content),
    )
