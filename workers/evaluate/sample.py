"""A few samples to look at, of data of any size: read from the beginnings of some of its shards.

What the model gets, but whole in memory and without augmentation: pixels of the centred square, of a list of texts the
first. A sample that lacks a column, or can't be decoded, is left out and counted.

Letters: n samples, P image size.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobspecs.columns import Image, Text
from jobspecs.data import Data
from workers.data.decode import decode_views
from workers.data.find_shards import Folders, find_shards
from workers.data.row_maker import texts_of
from workers.data.shards import Sample, extensions, read_unindexed
from workers.storage import Storage

SHARDS = 8
"""That are opened, at most: evenly spread over all."""


@dataclass(frozen=True)
class Drawn:
    """Samples that have all columns of a spec."""

    images: NDArray[np.uint8] | None
    """(n, P, P, 3); None where the spec has no image."""
    texts: dict[str, list[str]]
    """n of each text column, by its name."""
    negatives: list[list[str]]
    """Of each sample, those in its tar; none where the spec has none."""
    places: list[tuple[str, int]]
    """Of each sample: URI of its tar, and number in it."""
    skipped: int

    def __len__(self) -> int:
        return len(self.negatives)


def draw(storage: Storage, data: Data, urls: Sequence[str], count: int) -> Drawn:
    """At most `count` samples of the tars that `urls` name. Raises DataError: shards are missing; StorageError."""
    shards = find_shards(list(urls), Folders(storage))
    opened = [shards[place] for place in _spread(len(shards), SHARDS)]
    columns = _columns(data)
    images: list[NDArray[np.uint8]] = []
    texts: dict[str, list[str]] = {name: [] for name in data.texts}
    negatives: list[list[str]] = []
    places: list[tuple[str, int]] = []
    skipped = 0
    for shard, most in zip(opened, _shares(count, len(opened)), strict=True):
        for sample in itertools.islice(read_unindexed(storage, shard, columns), most):
            try:
                image = None if data.image is None else _image(sample, data.image)
                own = {name: _text(sample, text) for name, text in data.texts.items()}
                others = _negatives(sample, data)
            except ValueError:  # of JSON, of UTF-8, and of images
                skipped += 1
                continue
            images += [] if image is None else [image]
            for name, text in own.items():
                texts[name].append(text)
            negatives.append(others)
            places.append((shard.uri, sample.place))
    size = 0 if data.image is None else data.image.size
    stacked = np.stack(images) if images else np.empty((0, size, size, 3), np.uint8)
    return Drawn(None if data.image is None else stacked, texts, negatives, places, skipped)


def _spread(there: int, most: int) -> list[int]:
    """At most `most` of range(there), evenly."""
    return sorted({place * there // min(most, there) for place in range(min(most, there))})


def _shares(count: int, parts: int) -> list[int]:
    return [count * (part + 1) // parts - count * part // parts for part in range(parts)]


def _columns(data: Data) -> tuple[tuple[str, ...], ...]:
    sections = [data.image, *data.texts.values(), data.negatives]
    return tuple(extensions(section.column) for section in sections if section is not None)


def _member(sample: Sample, column: str) -> bytes:
    """Raises ValueError: it is not there. A sample that lacks another column has this one all the same."""
    content = sample.column(extensions(column)) if sample.fault in (None, "missing_column") else None
    if content is None:
        raise ValueError(f"no {column}")
    return content


def _image(sample: Sample, image: Image) -> NDArray[np.uint8]:
    views = np.empty((1, image.size, image.size, 3), np.uint8)
    decode_views(_member(sample, image.column), image, None, views)
    pixels: NDArray[np.uint8] = views[0]
    return pixels


def _text(sample: Sample, text: Text) -> str:
    content = _member(sample, text.column).decode("utf-8")
    if text.field is None:
        return content
    texts = texts_of(content, text.field)
    if not texts:
        raise ValueError(f"no text in {text.field}")
    return texts[0]


def _negatives(sample: Sample, data: Data) -> list[str]:
    """None where the tar has none, whatever the reason: they are not what a sample is left out for."""
    if data.negatives is None:
        return []
    try:
        listed = json.loads(_member(sample, data.negatives.column))
    except (ValueError, RecursionError):
        return []
    return [text for text in listed if isinstance(text, str)] if isinstance(listed, list) else []
