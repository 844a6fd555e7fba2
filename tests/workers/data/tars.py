"""Small shards with known content, whole and damaged, on disk and in memory, and their index.

Sample `place` of `shard` has the key `{shard}-{place}`, the text `caption(shard, place)` and the image
`noise_jpeg(shard, place)`.
"""

from __future__ import annotations

import functools
import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from jobspecs.data import Source
from workers.data.filters import canonical
from workers.data.index import Index
from workers.data.ragged import Ragged, Strings
from workers.data.scan import Scan, scan_shard
from workers.storage import ObjectInfo, Storage, basename, join

Members = Sequence[tuple[str, bytes]]
"""Names and contents of a tar's members, in order."""
Damage = Mapping[int, Callable[[bytes], bytes]]
"""What becomes of the bytes of a shard."""


def tar_of(members: Members) -> bytes:
    """The bytes of a tar with these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@functools.cache
def noise_jpeg(*key: int) -> bytes:
    """A JPEG of 24x16 pixels in which every crop looks different; equal keys give equal images."""
    buffer = io.BytesIO()
    coarse = np.random.default_rng(key).integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(coarse).resize((24, 16)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def caption(shard: int, place: int) -> str:
    """Of a sample."""
    return f"sample {place} of shard {shard}"


def pairs(shard: int, count: int, padding: int = 0) -> list[tuple[str, bytes]]:
    """Members of a shard of `count` images and texts. `padding` bytes behind an image take no part in it."""
    members = []
    for place in range(count):
        members.append((f"{shard}-{place}.jpg", noise_jpeg(shard, place) + bytes(padding)))
        members.append((f"{shard}-{place}.txt", caption(shard, place).encode()))
        members.append((f"{shard}-{place}.json", b"{}"))
    return members


def texts(shard: int, count: int) -> list[tuple[str, bytes]]:
    """Members of a shard of `count` texts: 1 KiB of the tar a sample."""
    return [(f"{shard}-{place}.txt", caption(shard, place).encode()) for place in range(count)]


def on_disk(folder: Path, tars: Sequence[bytes], name: str = "noise", damage: Damage | None = None) -> Index:
    """Writes the tars and indexes them. Those that are damaged then have the counts and offsets of the whole
    tar and the size of the damaged one: what stands beside a tar may count more than it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"shard-{shard}.tar" for shard in range(len(tars))]
    for path, tar in zip(paths, tars, strict=True):
        path.write_bytes(tar)
    storage, source = Storage(), Source(name=name, urls=["*"])
    uris = [f"file://{path}" for path in paths]
    scans = [scan_shard(storage.stat(uri), source, storage) for uri in uris]
    for shard, spoil in (damage or {}).items():
        paths[shard].write_bytes(spoil(tars[shard]))
    return Index.of(name, canonical(source), [storage.stat(uri) for uri in uris], scans)


def copied(index: Index, folder: str, storage: Storage) -> Index:
    """The index of copies of its shards in another folder."""
    infos = [storage.write(join(folder, basename(uri)), Storage().read(uri)) for uri in index.uris]
    uris, etags = zip(*((info.uri, info.etag) for info in infos), strict=True)
    return replace(index, uris=Strings.of(uris), etags=Strings.of(etags))


def filtered(index: Index, every: int) -> Index:
    """The index as filters make it that keep every so many of a shard's samples, the first one included."""
    infos = [
        ObjectInfo(uri, int(size), etag) for uri, size, etag in zip(index.uris, index.sizes, index.etags, strict=True)
    ]
    scans = [index.scan(shard) for shard in range(len(index))]
    kept = [Scan.of(scan.stored, (), range(0, scan.stored, every)).kept for scan in scans]
    return Index.of(index.source, "", infos, [replace(scan, kept=bits) for scan, bits in zip(scans, kept, strict=True)])


def without_offsets(index: Index) -> Index:
    """The index as it is where files beside the tars have the counts."""
    return replace(index, offsets=Ragged.of([()] * len(index), np.uint32))


class InMemory(Storage):
    """Objects that are there from the start. Counts what is read of them."""

    def __init__(self, objects: Mapping[str, bytes]) -> None:
        super().__init__()
        self.objects = objects
        self.opened = 0
        self.open_now = self.most_open = 0
        self.bytes_read = 0

    def open(self, uri: str, start: int = 0, *, known: ObjectInfo | None = None) -> BinaryIO:
        """A stream from byte `start` on."""
        return _Counted(self, self.objects[uri][start:])


class _Counted(io.BytesIO):
    def __init__(self, storage: InMemory, content: bytes) -> None:
        super().__init__(content)
        self._storage = storage
        storage.opened += 1
        storage.open_now += 1
        storage.most_open = max(storage.most_open, storage.open_now)

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self._storage.bytes_read += len(content)
        return content

    def close(self) -> None:
        if not self.closed:
            self._storage.open_now -= 1
        super().close()


def in_memory(tars: Mapping[str, Sequence[bytes]]) -> tuple[InMemory, tuple[Index, ...]]:
    """The tars of each source by its name, and their indexes."""
    objects = {f"file:///{name}/{shard}.tar": tar for name, own in tars.items() for shard, tar in enumerate(own)}
    storage = InMemory(objects)
    indexes = []
    for name, own in tars.items():
        infos = [ObjectInfo(f"file:///{name}/{shard}.tar", len(tar), "") for shard, tar in enumerate(own)]
        source = Source(name=name, urls=["*"])
        scans = [scan_shard(info, source, storage) for info in infos]
        indexes.append(Index.of(name, canonical(source), infos, scans))
    storage.opened = storage.bytes_read = 0
    return storage, tuple(indexes)
