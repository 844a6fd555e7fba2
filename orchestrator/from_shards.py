"""`tandem init --from-shards`: URLs of tars -> the text of a spec that fits them.

Counts come from files beside the tars, or from reading them where that is quick; else they are estimated.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobspecs.data import Source
from jobspecs.errors import DataError
from jobspecs.storage import S3
from orchestrator.draft import Counted, draft, kind_of, name_of, split
from orchestrator.scanning import counted
from workers.data.find_shards import Folders, find_shards
from workers.data.look import Look, look
from workers.data.scan import Scan, scan_shard
from workers.storage import ObjectInfo, Storage, basename

_READ_BYTES = 256 << 20
"""Tars of so many bytes in all are read to be counted: a few seconds."""
_READ_SHARDS = 64
"""So many of more tars than that, at most: each takes a request."""


def spec_for(urls: Sequence[str], s3: S3) -> str:
    """The text of a spec that trains on the tars at `urls`; a folder stands for all tars in it.

    s3: how they are reached; its endpoint goes into the spec.

    Raises DataError: there are none, they are damaged or hold nothing to be contrasted; StorageError.
    """
    given = [_pattern(url) for url in urls]
    storage = Storage(s3)
    folders = Folders(storage)
    shards = find_shards(given, folders)
    folder = given[0][: given[0].rfind("/") + 1]
    is_one_folder = len({info.uri.rpartition("/")[0] for info in shards}) == 1
    seen = look(shards, storage)
    if not seen.samples:
        raise DataError(f"{', '.join(given)}: no sample in the tars that were looked at. Check the urls.")
    # Views of one image have no pairs to retrieve: every shard trains.
    can_hold_out = is_one_folder and kind_of(seen) != "two_view"
    chosen = split([f"{folder}{basename(info.uri)}" for info in shards] if can_hold_out else (), given)
    training = shards[: len(shards) - len(chosen.held_out)]
    return draft(name_of(given[0]), chosen, _count(training, folders, seen), seen, s3.endpoint)


def _pattern(url: str) -> str:
    """Tars as a spec names them; a folder stands for those in it."""
    return url if "*" in url or url.endswith((".tar", ".tgz", ".tar.gz")) else f"{url.rstrip('/')}/*.tar"


def _count(shards: list[ObjectInfo], folders: Folders, seen: Look) -> Counted:
    """Raises DataError, StorageError."""
    known: dict[ObjectInfo, int] = {}
    for shard, scan in counted(shards, folders):
        if not isinstance(scan, Scan):
            raise scan
        known[shard] = scan.samples
    rest = [shard for shard in shards if shard not in known]
    size = sum(shard.size for shard in rest)
    is_exact = size <= _READ_BYTES
    samples = sum(known.values())
    if is_exact:
        samples += _samples(rest, folders.storage)
    elif seen.bytes_per_sample:
        samples += round(size / seen.bytes_per_sample)
    else:
        samples += round(size * _samples_per_byte(rest, folders.storage))
    if samples < 2:
        raise DataError(f"there are {samples} samples to train on, and a batch takes 2 at least. Add shards.")
    return Counted(samples, is_exact)


def _samples(shards: Sequence[ObjectInfo], storage: Storage) -> int:
    """Raises DataError, StorageError."""
    source = Source(urls=["looked-at"])
    return sum(scan_shard(shard, source, storage).samples for shard in shards)


def _samples_per_byte(shards: Sequence[ObjectInfo], storage: Storage) -> float:
    """Of shards in which it can't be seen where samples begin: compressed ones, or those of one sample each. A few are
    read whole, large ones first, as small ones may be empty.

    Raises DataError: each is too large for that; StorageError.
    """
    read: list[ObjectInfo] = []
    left = _READ_BYTES
    for shard in sorted(shards, key=lambda shard: shard.size, reverse=True):
        if shard.size <= left and len(read) < _READ_SHARDS:
            read.append(shard)
            left -= shard.size
    samples = _samples(read, storage)
    if not samples:
        raise DataError(
            f"how many samples there are in {len(shards)} shards such as {shards[0].uri} takes reading one whole, "
            f"more than the {_READ_BYTES >> 20} MiB that are read for it. Give tars that are not compressed; or "
            "start from an example (`tandem init` lists them), and have `tandem index` count these."
        )
    return samples / sum(shard.size for shard in read)
