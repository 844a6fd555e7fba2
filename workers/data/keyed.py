"""Random draws keyed by what they are for, never by who draws or when.

Every draw names its key: `(seed, "order", source, pass)` or `(seed, "crop", source, pass, shard, sample)`.
Equal keys give equal draws on any rank, in any process, in any order: the promise rests on this.

Only Philox's raw 64-bit output is used (Salmon et al. 2011). NumPy keeps that stream fixed, while the
methods of `Generator` may change between releases (NEP 19).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Key = tuple[int | str, ...]


def hash64(*key: int | str) -> int:
    """A signed 64-bit hash of `key`: what identifies a sample on the wire and in the digests."""
    return int.from_bytes(_digest(key, 8), "little", signed=True)


def raw(count: int, *key: int | str) -> NDArray[np.uint64]:
    """`count` uniform 64-bit integers."""
    # One integer: a list of two would pass through float64 where they stand on both sides of 2⁶³.
    return np.random.Philox(key=int.from_bytes(_digest(key, 16), "little")).random_raw(count)


def permutation(count: int, *key: int | str) -> NDArray[np.int64]:
    """A permutation of `range(count)`: the ranks of raw draws (ties, 1 in 2⁶⁴ a pair, keep their order)."""
    return np.argsort(raw(count, *key), kind="stable")


def uniform(count: int, *key: int | str) -> NDArray[np.float64]:
    """`count` uniform numbers in [0, 1), 53 bits each."""
    return (raw(count, *key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _digest(key: Key, size: int) -> bytes:
    # `repr` tells 1 from '1' and ('a', 'b') from ('ab',).
    return hashlib.blake2b(repr(key).encode(), digest_size=size).digest()
