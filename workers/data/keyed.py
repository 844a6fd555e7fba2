"""Random draws keyed by what they are for, never by who draws or when.

Every draw names its key: `(seed, "order", source, pass)` or `(seed, "crop", source, pass, shard, sample)`.
Equal keys give equal draws on any rank, in any process, in any order: the promise rests on this.

The draws are the output of SHAKE128 (FIPS 202) for the key's text: fixed by a standard for any length, and 2 µs
for the few numbers that a crop takes, where a generator of NumPy's takes 12 to be made.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Key = tuple[int | str, ...]


def hash64(*key: int | str) -> int:
    """A signed 64-bit hash of `key`: what identifies a sample on the wire and in the digests."""
    # `repr` tells 1 from '1' and ('a', 'b') from ('ab',).
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little", signed=True)


def raw(count: int, *key: int | str) -> NDArray[np.uint64]:
    """`count` uniform 64-bit integers."""
    return np.frombuffer(hashlib.shake_128(repr(key).encode()).digest(8 * count), "<u8")


def permutation(count: int, *key: int | str) -> NDArray[np.int64]:
    """A permutation of `range(count)`: the ranks of raw draws (ties, 1 in 2⁶⁴ a pair, keep their order)."""
    return np.argsort(raw(count, *key), kind="stable")


def uniform(count: int, *key: int | str) -> NDArray[np.float64]:
    """`count` uniform numbers in [0, 1), 53 bits each."""
    return (raw(count, *key) >> np.uint64(11)).astype(np.float64) * 2.0**-53
