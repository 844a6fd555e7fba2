"""Which candidates answer which queries, and rankings of them in chunks of bounded memory.

Letters: Q queries, C candidates, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHUNK_BYTES = 32 << 20
"""Of similarities that are held at a time; what compares them takes some five times as much."""

Measure = Callable[[NDArray[np.float32], NDArray[np.bool_]], NDArray[np.float64]]
"""Scores (q, C) and which are positive (q, C) -> what each query scores, (q,) or (q, m)."""


@dataclass(frozen=True)
class Relevance:
    """The pairs (query, positive) without repeats, by query: 16 bytes each, where a matrix takes Q·C."""

    query: NDArray[np.int64]
    candidate: NDArray[np.int64]
    queries: int
    candidates: int

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, int]], queries: int, candidates: int) -> Relevance:
        """Of pairs in any order, repeats among them."""
        ordered = np.array(sorted(set(pairs)), np.int64).reshape(-1, 2)
        return cls(ordered[:, 0], ordered[:, 1], queries, candidates)

    @property
    def positives(self) -> NDArray[np.int64]:
        """(Q,): how many each query has."""
        return np.bincount(self.query, minlength=self.queries)

    def turned(self) -> Relevance:
        """The candidates as queries."""
        order = np.lexsort((self.query, self.candidate))
        return Relevance(self.candidate[order], self.query[order], self.candidates, self.queries)

    def mask(self, start: int, stop: int) -> NDArray[np.bool_]:
        """(stop - start, C): the positives of some queries."""
        first, last = np.searchsorted(self.query, [start, stop])
        mask = np.zeros((stop - start, self.candidates), np.bool_)
        mask[self.query[first:last] - start, self.candidate[first:last]] = True
        return mask


def measured(
    queries: NDArray[np.float32], candidates: NDArray[np.float32], relevance: Relevance, measure: Measure
) -> NDArray[np.float64]:
    """(Q, …): `measure` of each query, candidates ranked by cosine. queries (Q, d), candidates (C, d), normalised."""
    rows = rows_at_a_time(len(candidates))
    parts = [
        measure(queries[start : start + rows] @ candidates.T, relevance.mask(start, min(start + rows, len(queries))))
        for start in range(0, len(queries), rows)
    ]
    return np.concatenate(parts)


def rows_at_a_time(columns: int) -> int:
    """Rows of so many float32 similarities that fit the chunk; one at least."""
    return max(1, CHUNK_BYTES // (4 * max(1, columns)))
