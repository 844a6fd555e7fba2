"""Rows of a global batch, as arrays: what a loader process makes and a rank trains on.

Letters: n rows, V views, P image size, T context length, K negatives, A colour parameters.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobspecs.data import Data
from workers.data.augment import COLOR_PARAMETERS

_ALIGNMENT = 64
"""Arrays in shared memory begin at multiples of a cache line."""


@dataclass(frozen=True)
class Rows:
    """n rows; a row that is not `valid` is masked: no query, no negative."""

    columns: dict[str, NDArray[Any]]
    """By name, those that the spec has:

    image            uint8 (n, V, P, P, 3)
    image_key        int64 (n,), XXH3-64 of the bytes of the image's member: equal files have equal keys
    color            float32 (n, V, A), how the colours of a view change (workers/data/augment.py)
    text             int32 (n, T); `query` and `document` likewise
    negatives        int32 (n, K, T)
    negatives_valid  bool (n, K)
    weight           float32 (n,), what a row weighs in the loss
    """
    ids: NDArray[np.int64]
    """(n,): identity of the sample: source, shard, place, and the key that was read there."""
    valid: NDArray[np.bool_]
    """(n,)."""

    @classmethod
    def empty(cls, count: int, data: Data) -> Rows:
        """`count` masked rows, zero throughout."""
        return cls.within(memoryview(bytearray(rows_bytes(count, data))), count, data)

    @classmethod
    def within(cls, buffer: memoryview, count: int, data: Data) -> Rows:
        """`count` rows as they lie in a buffer of `rows_bytes` bytes, which all who map it share."""
        arrays, offset = {}, 0
        for name, (shape, dtype) in _layout(data).items():
            arrays[name] = np.ndarray((count, *shape), dtype, buffer, offset)
            offset += _aligned(arrays[name].nbytes)
        return cls(columns=arrays, ids=arrays.pop("ids"), valid=arrays.pop("valid"))

    def mask(self, row: int) -> None:
        """Makes a row zero throughout but for its identity."""
        for column in self.columns.values():
            column[row] = 0
        self.valid[row] = False

    def place(self, rows: Rows, at: NDArray[np.int64]) -> None:
        """Copies all of `rows` to the places `at`."""
        for name, column in self.columns.items():
            column[at] = rows.columns[name]
        self.ids[at] = rows.ids
        self.valid[at] = rows.valid


def rows_bytes(count: int, data: Data) -> int:
    """Bytes of `count` rows."""
    return sum(_aligned(count * math.prod(shape) * np.dtype(dtype).itemsize) for shape, dtype in _layout(data).values())


def _layout(data: Data) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape of a row and type of each array."""
    layout: dict[str, tuple[tuple[int, ...], Any]] = {"ids": ((), np.int64), "valid": ((), np.bool_)}
    if data.image is not None:
        layout["image"] = ((data.image.views, data.image.size, data.image.size, 3), np.uint8)
        layout["image_key"] = ((), np.int64)
        if data.image.color is not None:
            layout["color"] = ((data.image.views, COLOR_PARAMETERS), np.float32)
    for name, text in data.texts.items():
        layout[name] = ((text.context_length,), np.int32)
    if data.negatives is not None:
        assert data.document is not None  # the spec's own rule
        layout["negatives"] = ((data.negatives.count, data.document.context_length), np.int32)
        layout["negatives_valid"] = ((data.negatives.count,), np.bool_)
    if data.weight is not None:
        layout["weight"] = ((), np.float32)
    return layout


def _aligned(size: int) -> int:
    return size + -size % _ALIGNMENT


@dataclass(frozen=True)
class BadSample:
    """A sample that became a masked row."""

    uri: str
    place: int
    """Number of the sample in its shard, from 0."""
    key: str
    cause: str
    """One of workers.data.shards.FAULTS."""


def batch_digest(ids: NDArray[np.int64], valid: NDArray[np.bool_], negatives: str = "") -> str:
    """The digest of a global batch, 32 hex digits: which samples stood in it, in slot order, which of them were
    masked, and by which version of mined negatives. Equal digests mean equal tasks.

    ids, valid: (B,) in slot order, without padding rows. negatives: `NegativesTable.digest`, empty where a job mines
    none.
    """
    hashed = hashlib.blake2b(ids.astype("<i8").tobytes(), digest_size=16)
    hashed.update(valid.astype(np.uint8).tobytes())
    hashed.update(negatives.encode())
    return hashed.hexdigest()
