"""Demo samples and the tar that holds a shard of them, in img2dataset's layout.

In: rendered samples. Out: the bytes of a tar (`{key}.jpg`, `{key}.txt`, `{key}.json` per sample) and
of the `_stats.json` beside it. Called by `demo.py`; the generators make the samples. No file is
written here, and the same samples always give the same bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

JPEG_QUALITY = 95
SAMPLES_PER_KEY_RANGE = 10_000
"""A key is the shard in five digits and the sample in four, so a shard holds no more than this."""


@dataclass(frozen=True)
class Sample:
    """One image with its caption."""

    jpeg: bytes
    caption: str
    width: int
    height: int
    facts: Mapping[str, str | int] = field(default_factory=dict)
    """What else is known of the image (label, font, …): further fields of its `.json`."""


@dataclass(frozen=True)
class Split:
    """The samples of `train` or `test`, in order, and the number of shards to spread them over."""

    name: str
    samples: tuple[Sample, ...]
    shards: int

    def shard(self, index: int) -> tuple[Sample, ...]:
        """Samples of one shard; the shards' sizes differ by at most one."""
        count = len(self.samples)
        return self.samples[count * index // self.shards : count * (index + 1) // self.shards]


@dataclass(frozen=True)
class Demo:
    """A whole data set. `labels`, if it has classes, are their names in label order."""

    splits: tuple[Split, ...]
    labels: tuple[str, ...] = ()


def encode_jpeg(grayscale: Image.Image) -> bytes:
    """RGB JPEG of an `L` image: three equal channels, as image towers expect."""
    buffer = io.BytesIO()
    grayscale.convert("RGB").save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def pack_shard(shard: int, samples: Sequence[Sample]) -> bytes:
    """Tar of `samples`, keyed from `{shard:05d}0000` on.

    Written with tarfile, not webdataset's TarWriter: importing webdataset imports torch (2 s), and
    the writer adds nothing here. `TarInfo` starts with mtime, uid and gid 0 and no user names, so
    the bytes depend on the samples alone.
    """
    assert len(samples) <= SAMPLES_PER_KEY_RANGE, f"{len(samples)} samples > {SAMPLES_PER_KEY_RANGE} keys"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, sample in enumerate(samples):
            key = f"{shard:05d}{number:04d}"
            for extension, payload in _members(key, sample):
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(payload)
                tar.addfile(member, io.BytesIO(payload))
    return buffer.getvalue()


def shard_stats(samples: Sequence[Sample]) -> bytes:
    """`_stats.json` as img2dataset writes it, less its clock times: they would change the bytes."""
    count = len(samples)
    stats = {
        "count": count,
        "successes": count,
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "status_dict": {"success": count},
    }
    return json.dumps(stats, indent=4).encode()


def _members(key: str, sample: Sample) -> tuple[tuple[str, bytes], ...]:
    described = {
        "caption": sample.caption,
        "key": key,
        "width": sample.width,
        "height": sample.height,
        **sample.facts,
    }
    return (
        ("jpg", sample.jpeg),
        ("txt", sample.caption.encode()),
        ("json", json.dumps(described, ensure_ascii=False).encode()),
    )
