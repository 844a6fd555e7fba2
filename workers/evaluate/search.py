"""Exact search: the k candidates with the largest products with each query, in tiles of bounded memory.

    best = top_k(queries, candidates, k)                             candidates in memory, or memory-mapped
    merge([top_k(queries, part, k, first=…) for part in parts], k)   in parts, of one task or of several

For unit rows the scores are cosines. Which candidates a query finds depends on the two vectors alone, not on tiles,
parts or threads: products in fp32 choose k + MARGIN candidates, and those are scored again in float64, rounded to fp32
and ordered; of equal scores the smaller index is first. (Where more than MARGIN candidates beyond the k-th are within
fp32's error of it, such as copies of one vector, rounding may choose among them.) A score that is no number is never
found; a query that finds fewer than k has the index -1 with the score -inf in the places that are left.

Memory beyond the arguments, measured at width 512: 150 MiB, a copy of the queries in fp32, and 40·(k + MARGIN) bytes a
query, the result among them; candidates of any number add nothing. All threads that torch has.

Letters: Q queries, C candidates, d width, q queries of a tile, c candidates of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

MARGIN = 16
TILE_QUERIES, TILE_CANDIDATES = 1024, 8192
"""Scores of a tile: 32 MiB. Candidates are read once; a tile of them meets all queries."""
_RESCORED_BYTES = 32 << 20
_EMPTY = np.uint64(2**64 - 1)
"""Key of a place that is left: behind all others."""


@dataclass(frozen=True)
class TopK:
    """What each query found, the best first."""

    scores: NDArray[np.float32]
    """(Q, k)."""
    indexes: NDArray[np.int64]
    """(Q, k)."""


def top_k(queries: NDArray[Any], candidates: NDArray[Any], k: int, first: int = 0) -> TopK:
    """The best k of the candidates (C, d), C < 2³², for each of the queries (Q, d); of any float type, read as fp32.

    first: the index of the first candidate, where these are a part of more.
    """
    asked = torch.from_numpy(np.array(queries, np.float32))
    best = np.full((len(asked), k + MARGIN), _EMPTY)
    worst = np.full(len(asked), -np.inf, np.float32)  # score to be passed
    # Filled again and again: fresh memory for each tile costs a page fault for each 4 KiB.
    products = torch.empty(TILE_QUERIES * TILE_CANDIDATES)
    for start in range(0, len(candidates), TILE_CANDIDATES):
        tile = torch.from_numpy(np.array(candidates[start : start + TILE_CANDIDATES], np.float32))
        for begin in range(0, len(asked), TILE_QUERIES):
            rows = slice(begin, begin + TILE_QUERIES)
            of_tile = asked[rows]
            scores = products[: len(of_tile) * len(tile)].view(len(of_tile), len(tile))
            found = _passing(torch.mm(of_tile, tile.T, out=scores), worst[rows], start, best.shape[1])
            if found is not None:
                best[rows] = np.sort(np.concatenate([best[rows], found], 1), axis=1)[:, : best.shape[1]]
                worst[rows] = _scores(best[rows, -1])
    return _rescored(asked.numpy(), candidates, best, k, first)


def merge(parts: Sequence[TopK], k: int) -> TopK:
    """The best k of what was found in parts of the candidates, in any order; each with the best k of its part."""
    scores = np.concatenate([part.scores for part in parts], 1)
    indexes = np.concatenate([part.indexes for part in parts], 1)
    return _ordered(scores, indexes, k)


def _passing(scores: torch.Tensor, worst: NDArray[np.float32], start: int, k: int) -> NDArray[np.uint64] | None:
    """(q, m): keys of the candidates that are better than `worst`, and may be among the best k; None where none is.

    scores: (q, c). Candidates come in the order of their indexes: one that equals the worst is behind it.
    """
    q, c = scores.shape
    passes = (scores > torch.from_numpy(worst)[:, None]).numpy()
    places = np.flatnonzero(passes)
    if len(places) > 4 * q * k and c > k:
        # The first tile, or candidates that get better and better.
        kth = torch.topk(scores.nan_to_num(nan=-torch.inf), k, dim=1, sorted=True).values[:, -1:]
        places = np.flatnonzero(passes & (scores >= kth).numpy())
    if not len(places):
        return None
    row, column = np.divmod(places, c)
    counts = np.bincount(row, minlength=q)
    behind = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    keys = np.full((q, int(counts.max())), _EMPTY)
    keys[row, behind] = _keys(scores.numpy()[row, column], start + column)
    return keys


def _keys(scores: NDArray[np.float32], indexes: NDArray[np.int64]) -> NDArray[np.uint64]:
    """64 bits that ascend from the best: the score's, turned so that larger ones are smaller, then the index's."""
    bits = (scores + np.float32(0)).view(np.uint32)  # + 0: of two zeros none is better
    ascending = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (~ascending).astype(np.uint64) << np.uint64(32) | indexes.astype(np.uint64)


def _scores(keys: NDArray[np.uint64]) -> NDArray[np.float32]:
    """The inverse of `_keys`; -inf for places that are left."""
    ascending = ~(keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(ascending >> 31, ascending & np.uint32(2**31 - 1), ~ascending)
    return np.where(keys == _EMPTY, np.float32(-np.inf), bits.view(np.float32))


def _rescored(
    queries: NDArray[np.float32], candidates: NDArray[Any], best: NDArray[np.uint64], k: int, first: int
) -> TopK:
    """The best k of `best` (Q, k + MARGIN), by float64."""
    found = best != _EMPTY
    places = np.where(found, best & np.uint64(2**32 - 1), 0).astype(np.int64)
    scores = np.full(best.shape, -np.inf, np.float32)
    rows = max(1, _RESCORED_BYTES // (8 * queries.shape[1] * best.shape[1]))
    for start in range(0, len(queries) if len(candidates) else 0, rows):
        chosen = np.asarray(candidates[places[start : start + rows]], np.float32).astype(np.float64)
        asked = queries[start : start + rows, :, None].astype(np.float64)
        scores[start : start + rows] = torch.bmm(torch.from_numpy(chosen), torch.from_numpy(asked)).numpy()[..., 0]
    return _ordered(np.where(found, scores, -np.inf), np.where(found, places + first, -1), k)


def _ordered(scores: NDArray[np.floating], indexes: NDArray[np.int64], k: int) -> TopK:
    """The best k of (Q, n) by descending score, then ascending index."""
    # What was not found is behind what scores -inf.
    order = np.lexsort((indexes, -scores, indexes < 0))[:, :k]
    return TopK(
        np.take_along_axis(scores, order, 1).astype(np.float32, copy=False), np.take_along_axis(indexes, order, 1)
    )
