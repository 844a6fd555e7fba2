"""Small shards: what the tests of the data path read."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workers.data.index import Index

Members = Sequence[tuple[str, bytes]]
"""Names and contents of a tar's members, in order."""


def _tar(members: Members) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _noise_jpeg(*key: int) -> bytes:
    """A JPEG of 24x16 pixels in which every crop looks different; equal keys give equal images."""
    buffer = io.BytesIO()
    coarse = np.random.default_rng(key).integers(0, 256, (4, 6, 3), np.uint8)
    Image.fromarray(coarse).resize((24, 16)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def tar_of() -> Callable[[Members], bytes]:
    """The bytes of a tar with these members."""
    return _tar


@pytest.fixture(scope="session")
def noise_jpeg() -> Callable[..., bytes]:
    """The bytes of a JPEG drawn from a key of integers."""
    return _noise_jpeg


@pytest.fixture(scope="session")
def write_source() -> Callable[[Path, Sequence[int]], Index]:
    """Writes a shard for each count into a folder. Sample `place` of `shard` has the key `{shard}-{place}`,
    the caption `sample {place} of shard {shard}` and the image `noise_jpeg(shard, place)`."""

    def write(folder: Path, counts: Sequence[int]) -> Index:
        paths = [folder / f"shard-{shard}.tar" for shard in range(len(counts))]
        for shard, count in enumerate(counts):
            members: list[tuple[str, bytes]] = []
            for place in range(count):
                members.append((f"{shard}-{place}.jpg", _noise_jpeg(shard, place)))
                members.append((f"{shard}-{place}.txt", f"sample {place} of shard {shard}".encode()))
                members.append((f"{shard}-{place}.json", b"{}"))
            paths[shard].write_bytes(_tar(members))
        return Index(
            source="noise",
            uris=tuple(f"file://{path}" for path in paths),
            sizes=tuple(path.stat().st_size for path in paths),
            etags=tuple(f"etag-{shard}" for shard in range(len(counts))),
            samples=tuple(counts),
        )

    return write
