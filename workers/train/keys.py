"""64-bit keys of what the rows of a batch hold, in vectors: equal contents have equal keys, 0 is nobody's.

The loader's own keys (`workers.data.keyed`) are of one sample at a time. Letters: n rows, T tokens.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workers.data.keyed import hash64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def token_keys(tokens: NDArray[np.int32]) -> NDArray[np.int64]:
    """(n, T) -> (n,): equal for texts that the tower sees as equal.

    A multilinear hash modulo 2⁶⁴ with a fixed random odd factor for each place, mixed: among a million texts two
    different ones share a key with a probability of about 1e-7.
    """
    factors = _mixed(np.arange(1, tokens.shape[1] + 1, dtype=np.uint64) * _GOLDEN) | np.uint64(1)
    sums = ((tokens.astype(np.uint64) + np.uint64(1)) * factors).sum(1, dtype=np.uint64)
    return _nonzero(_mixed(sums))


def draw_keys(ids: NDArray[np.int64], *about: int | str) -> NDArray[np.int64]:
    """(…) identities of samples -> keys of random draws about them: what dropout does to a sample in a step depends
    on (seed, step, side, sample) alone."""
    salt = np.uint64(hash64(*about) & 0xFFFFFFFFFFFFFFFF)
    return _mixed(ids.astype(np.uint64) ^ salt).view(np.int64)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele et al. 2014): each bit in changes half of the bits out."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _nonzero(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    return np.where(keys == 0, np.uint64(1), keys).view(np.int64)
