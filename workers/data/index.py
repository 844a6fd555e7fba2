"""The index of a source: its shards with their sizes, ETags and sample counts, in columns.

It is made once, before the start (orchestrator/indexing.py), and kept with the run as a parquet file
(index_file.py): the order of samples follows from it. 230,000 shards take some tens of megabytes here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.data.ragged import Ragged, Strings
from workers.data.scan import Scan
from workers.data.shards import Shard
from workers.data.tar_header import BLOCK
from workers.storage import ObjectInfo, basename


@dataclass(frozen=True)
class Index:
    """The shards of one source, in the order of its URLs; a shard's number is its place here. n shards."""

    source: str
    filters: str
    """The filters that it was made with (`workers.data.filters.canonical`)."""
    uris: Strings
    etags: Strings
    sizes: NDArray[np.int64]
    """(n,) bytes."""
    stored: NDArray[np.int64]
    """(n,) samples in each tar."""
    samples: NDArray[np.int64]
    """(n,) samples that the filters keep: those that there are, for the order."""
    offsets: Ragged
    """Block of 512 bytes at which every OFFSET_STRIDE-th sample of a shard begins, uint32; a row is empty
    where the tar was not read."""
    kept: Ragged
    """A bit for each stored sample, whether it is kept, uint8; empty where all are."""
    beside: Strings
    """Tells the files beside each tar from others of their names: counts and filters may come from them."""

    def __len__(self) -> int:
        return len(self.sizes)

    @classmethod
    def of(cls, source: str, filters: str, shards: Sequence[ObjectInfo], scans: Sequence[Scan]) -> Index:
        """From what was found and counted, shard by shard."""
        return cls(
            source=source,
            filters=filters,
            uris=Strings.of(shard.uri for shard in shards),
            etags=Strings.of(shard.etag for shard in shards),
            sizes=np.array([shard.size for shard in shards], np.int64),
            stored=np.array([scan.stored for scan in scans], np.int64),
            samples=np.array([scan.samples for scan in scans], np.int64),
            offsets=Ragged.of((scan.offsets for scan in scans), np.uint32),
            kept=Ragged.of((() if scan.kept is None else scan.kept for scan in scans), np.uint8),
            beside=Strings.of(scan.beside for scan in scans),
        )

    def shard(self, number: int) -> Shard:
        """All of one shard."""
        stored, bits = int(self.stored[number]), self.kept[number]
        return Shard(
            uri=self.uris[number],
            size=int(self.sizes[number]),
            etag=self.etags[number],
            stored=stored,
            offsets=self.offsets[number].astype(np.int64) * BLOCK,
            kept=np.flatnonzero(np.unpackbits(bits, count=stored)) if len(bits) else None,
        )

    def scan(self, number: int) -> Scan:
        """What was counted of one shard; the inverse of `of`."""
        bits = self.kept[number]
        return Scan(int(self.stored[number]), self.offsets[number], bits if len(bits) else None, self.beside[number])

    def fingerprint(self) -> str:
        """sha256 over the source's name, each shard's file name, size and count, and which samples are kept.
        The place of the shards is not in it: copies elsewhere are the same data."""
        hashed = hashlib.sha256(self.source.encode())
        for uri in self.uris:
            hashed.update(b"\n" + basename(uri).encode())
        for column in (self.sizes, self.stored, self.samples):
            hashed.update(column.astype("<i8").tobytes())
        hashed.update(self.kept.values.tobytes())
        return hashed.hexdigest()


def fingerprint(indexes: Sequence[Index]) -> str:
    """Of all sources together; of one source its own."""
    if len(indexes) == 1:
        return indexes[0].fingerprint()
    return hashlib.sha256("\n".join(index.fingerprint() for index in indexes).encode()).hexdigest()
