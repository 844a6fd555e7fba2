"""A look at tars that nobody has described: which members a sample has, and what is in them.

In: the first samples of a few shards. Out: a `Look`. Called for `tandem init --from-shards`.
"""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import median
from typing import Any

from jobspecs.columns import EXTENSION
from workers.data.scan import damaged
from workers.data.tar import TarDamagedError, TarSample, tar_samples
from workers.storage import ObjectInfo, Storage

SHARDS, SAMPLES = 3, 64
"""Shards that are looked at, and samples of each."""
_IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm")
_TEXTS = ("txt", "text", "caption")


@dataclass
class Column:
    """Members of one extension, or texts of one field in members with JSON."""

    seen: int = 0
    """Samples that have it."""
    lengths: list[int] = field(default_factory=list)
    """UTF-8 bytes of each text."""
    sides: list[tuple[int, int]] = field(default_factory=list)
    """Width and height of each image."""

    @property
    def length(self) -> int:
        """Bytes that 95 % of the texts don't exceed."""
        return sorted(self.lengths)[(len(self.lengths) * 95 - 1) // 100] if self.lengths else 0

    @property
    def side(self) -> int:
        """Median of the shorter sides."""
        return int(median(min(each) for each in self.sides)) if self.sides else 0


@dataclass
class Look:
    """What was seen."""

    samples: int = 0
    bytes_per_sample: float = 0.0
    """In the tar, headers included; 0 where that can't be told (compressed tars)."""
    images: dict[str, Column] = field(default_factory=lambda: defaultdict(Column))
    """By extension: members that are images."""
    texts: dict[str, Column] = field(default_factory=lambda: defaultdict(Column))
    """By extension: members that are UTF-8 text."""
    fields: dict[str, dict[str, Column]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(Column)))
    """By extension of a JSON member and field: texts, and lists of texts."""
    lists: dict[str, Column] = field(default_factory=lambda: defaultdict(Column))
    """By extension: JSON members that are a list of texts."""
    extensions: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Samples that have a member of each extension; those that no spec can name are left out."""


class _Known:
    """The extensions whose members are read: others may be large."""

    def __contains__(self, extension: object) -> bool:
        named = str(extension)
        return _can_be_named(named) and named.rpartition(".")[2] in (*_IMAGES, *_TEXTS, "json")


def _can_be_named(extension: str) -> bool:
    """Whether a spec can name it. Who made the tar may have put anything into its members' names."""
    return re.fullmatch(EXTENSION, extension) is not None


def look(shards: Sequence[ObjectInfo], storage: Storage) -> Look:
    """Looks at the first samples of the first shard, one in the middle and the last.

    Raises DataError: a tar is damaged; StorageError.
    """
    seen = Look()
    spans: list[float] = []
    chosen = sorted({0, len(shards) // 2, len(shards) - 1})[:SHARDS]
    for shard in (shards[number] for number in chosen):
        offsets = []
        for sample in _first(shard, storage):
            offsets.append(sample.offset)
            _take(sample, seen)
        if len(offsets) > 1:
            spans.append((offsets[-1] - offsets[0]) / (len(offsets) - 1))
    seen.bytes_per_sample = sum(spans) / len(spans) if spans else 0.0
    return seen


def _first(shard: ObjectInfo, storage: Storage) -> Iterator[TarSample]:
    with storage.open(shard.uri, known=shard) as stream:
        try:
            yield from islice(tar_samples(stream, _Known()), SAMPLES)
        except TarDamagedError as damage:
            raise damaged(shard.uri, damage.cause, "among its first samples") from damage


def _take(sample: TarSample, seen: Look) -> None:
    seen.samples += 1
    for extension in filter(_can_be_named, sample.extensions):
        seen.extensions[extension] += 1
    for extension, content in sample.members.items():
        kind = extension.rpartition(".")[2]
        if kind in _IMAGES:
            sides = _sides(content)
            if sides is not None:
                _count(seen.images[extension]).sides.append(sides)
        elif kind == "json":
            _take_json(extension, content, seen)
        else:
            text = _text(content)
            if text is not None:
                _count(seen.texts[extension]).lengths.append(len(content))


def _take_json(extension: str, content: bytes, seen: Look) -> None:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return
    if _is_texts(value):
        _count(seen.lists[extension])
    for name, text in _texts_of(value):
        _count(seen.fields[extension][name]).lengths.append(_length(text))


def _length(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))  # JSON can spell what is no UTF-8


def _texts_of(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, child in value.items() if isinstance(value, dict) else ():
        if not name or "." in name or any(map(str.isspace, name)):  # no field of a spec can name it
            continue
        if isinstance(child, str) and child:
            yield prefix + name, child
        elif _is_texts(child):
            yield prefix + name, child[0]
        elif isinstance(child, dict) and not prefix:
            yield from _texts_of(child, f"{name}.")


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _count(column: Column) -> Column:
    column.seen += 1
    return column


def _sides(content: bytes) -> tuple[int, int] | None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow says of no image
        return None


def _text(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None
