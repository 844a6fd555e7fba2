"""Rows of a global batch, as arrays: what a loader process sends and a rank trains on.

Letters: n rows, P image size, T context length.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobspecs.data import Data


@dataclass(frozen=True)
class Rows:
    """n rows; a row that is not `valid` is masked: no query, no negative."""

    images: NDArray[np.uint8]
    """(n, P, P, 3)."""
    tokens: NDArray[np.int32]
    """(n, T)."""
    ids: NDArray[np.int64]
    """(n,): identity of the sample: source, shard, place, and the key that was read there."""
    valid: NDArray[np.bool_]
    """(n,)."""

    @classmethod
    def empty(cls, count: int, data: Data) -> Rows:
        """`count` masked rows, zero throughout."""
        size = data.image.size
        return cls(
            np.zeros((count, size, size, 3), np.uint8),
            np.zeros((count, data.text.context_length), np.int32),
            np.zeros(count, np.int64),
            np.zeros(count, np.bool_),
        )


@dataclass(frozen=True)
class BadSample:
    """A sample that became a masked row."""

    uri: str
    place: int
    """Number of the sample in its shard, from 0."""
    key: str
    cause: str
    """One of workers.data.shards.FAULTS."""


def batch_digest(ids: NDArray[np.int64], valid: NDArray[np.bool_]) -> str:
    """The digest of a global batch, 32 hex digits: which samples stood in it, in slot order, and which of
    them were masked. Equal digests mean equal tasks.

    ids, valid: (B,) in slot order, without padding rows.
    """
    hashed = hashlib.blake2b(ids.astype("<i8").tobytes(), digest_size=16)
    hashed.update(valid.astype(np.uint8).tobytes())
    return hashed.hexdigest()
