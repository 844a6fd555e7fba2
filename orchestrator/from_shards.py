"""`tandem init --from-shards`: URLs of tars -> the text of a spec that fits them.

Counts come from files beside the tars, or from reading them where that is quick; else they are estimated.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobspecs.data import Source
from jobspecs.errors import DataError
from orchestrator.draft import Counted, draft, name_of, split
from orchestrator.scanning import counted
from workers.data.find_shards import Folders, find_shards
from workers.data.look import Look, look
from workers.data.scan import Scan, scan_shard
from workers.storage import ObjectInfo, Storage, basename

_READ_BYTES = 256 << 20
"""Tars of so many bytes in all are read to be counted: a few seconds."""


def spec_for(urls: Sequence[str], storage: Storage, name: str | None = None) -> str:
    """The text of a spec that trains on the tars at `urls`; a folder stands for all tars in it.

    Raises DataError: there are none, they are damaged or hold nothing to be contrasted; StorageError.
    """
    given = [_pattern(url) for url in urls]
    folders = Folders(storage)
    shards = find_shards(given, folders)
    folder = given[0][: given[0].rfind("/") + 1]
    is_one_folder = len({info.uri.rpartition("/")[0] for info in shards}) == 1
    chosen = split([f"{folder}{basename(info.uri)}" for info in shards] if is_one_folder else (), given)
    training = shards[: len(shards) - len(chosen.held_out)]
    seen = look(shards, storage)
    if not seen.samples:
        raise DataError(f"{', '.join(given)}: no sample in the tars that were looked at. Check the urls.")
    return draft(name or name_of(given[0]), chosen, _count(training, folders, seen), seen)


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
    if size <= _READ_BYTES or not seen.bytes_per_sample:
        source = Source(urls=["looked-at"])
        for shard in rest:
            known[shard] = scan_shard(shard, source, folders.storage).samples
        rest = []
    samples = sum(known.values()) + round(sum(shard.size for shard in rest) / (seen.bytes_per_sample or 1))
    if samples < 2:
        raise DataError(f"there are {samples} samples to train on, and a batch takes 2 at least. Add shards.")
    return Counted(samples, is_exact=not rest)
