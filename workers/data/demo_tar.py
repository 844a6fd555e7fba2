"""Demo samples and the tar that holds a shard of them, in img2dataset's layout.

In: samples. Out: the bytes of a tar and of the `_stats.json` beside it. An image is `{key}.jpg`, `{key}.txt` and
`{key}.json`; a pair of texts is `{key}.query.txt`, `{key}.document.txt`, `{key}.negatives.json` and `{key}.json`.
Called by `demo.py`; the generators make the samples. No file is written here, and the same samples always give the
same bytes.
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

    def members(self, key: str) -> tuple[tuple[str, bytes], ...]:
        """Extension and content of each member of the tar."""
        described = {"caption": self.caption, "key": key, "width": self.width, "height": self.height, **self.facts}
        return ("jpg", self.jpeg), ("txt", self.caption.encode()), ("json", _json(described))


@dataclass(frozen=True)
class TextPair:
    """A query and the document that answers it."""

    query: str
    document: str
    negatives: tuple[str, ...]
    """Documents that look like it and do not answer the query."""
    facts: Mapping[str, str | int] = field(default_factory=dict)
    """What else is known of the pair: the fields of its `.json`."""

    def members(self, key: str) -> tuple[tuple[str, bytes], ...]:
        """Extension and content of each member of the tar."""
        return (
            ("query.txt", self.query.encode("utf-8", "replace")),
            ("document.txt", self.document.encode("utf-8", "replace")),
            ("negatives.json", _json(self.negatives)),
            ("json", _json({"key": key, **self.facts})),
        )


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


@dataclass(frozen=True)
class Split:
    """The samples of `train` or `test`, in order, and the number of shards to spread them over."""

    name: str
    samples: tuple[Sample, ...] | tuple[TextPair, ...]
    shards: int

    def shard(self, index: int) -> tuple[Sample, ...] | tuple[TextPair, ...]:
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


def pack_shard(shard: int, samples: Sequence[Sample | TextPair]) -> bytes:
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
            for extension, payload in sample.members(key):
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(payload)
                tar.addfile(member, io.BytesIO(payload))
    return buffer.getvalue()


def shard_stats(samples: Sequence[Sample | TextPair]) -> bytes:
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
