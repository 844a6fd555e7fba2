"""Which candidates answer which queries, and rankings of them in chunks of bounded memory.

All threads that the task has compute: `resources.cpus` of an evaluation says how many. It is one task, however large
the corpus, because encoding the corpus takes so much longer than searching it that several tasks for the search alone
would change nothing. Processor time measured on two cores of a shared machine: 0.21 s to encode one image by ViT-B/32,
and 12 ms to rank 200,000 candidates of width 512 for a query, 28 % of them comparisons: so 10,000 queries among a
million images take 0.3 % of the time that encoding the images does, and ranking all images for a million texts takes
as long as 280,000 images. Where that is too long, `search: approximate` is what helps.

Letters: Q queries, C candidates, d width, k found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from workers.evaluate.search import TopK

CHUNK_BYTES = 32 << 20
"""Of similarities that a thread holds at a time; what compares them takes some five times as much."""

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
    """(Q, …): `measure` of each query, candidates ranked by cosine. queries (Q, d), candidates (C, d), normalised.

    Memory beyond the arguments and the result: some 200 MiB for each of torch's threads, or one row of C where that is
    more.
    """
    rows = rows_at_a_time(len(candidates))
    threads = torch.get_num_threads()
    parts: list[NDArray[np.float64]] = []
    pending: deque[Future[NDArray[np.float64]]] = deque()
    # Products use all threads by themselves; comparisons, which take as long on eight cores, are NumPy's, and use one.
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(queries), rows):
            if len(pending) == threads:
                parts.append(pending.popleft().result())
            scores = queries[start : start + rows] @ candidates.T
            pending.append(pool.submit(measure, scores, relevance.mask(start, start + len(scores))))
        parts += [each.result() for each in pending]
    return np.concatenate(parts)


def measured_found(found: TopK, relevance: Relevance, measure: Measure) -> NDArray[np.float64]:
    """(Q, …): `measure` of each query where only the candidates `found` (Q, k) are known: all others are behind them,
    tied, so that no measure of the first k places sees them."""
    most = int(relevance.positives.max(initial=0))
    rows = rows_at_a_time(found.indexes.shape[1] + most)
    parts = [
        measure(*_known(found, relevance, start, min(start + rows, relevance.queries)))
        for start in range(0, relevance.queries, rows)
    ]
    return np.concatenate(parts)


def _known(found: TopK, relevance: Relevance, start: int, stop: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Scores (q, k + m) of some queries and which are positive; the last m are of positives that were not found."""
    C = relevance.candidates
    first, last = np.searchsorted(relevance.query, [start, stop])
    query, candidate = relevance.query[first:last] - start, relevance.candidate[first:last]
    indexes, scores = found.indexes[start:stop], found.scores[start:stop]
    pairs = np.where(indexes < 0, -1, np.arange(stop - start)[:, None] * C + indexes)
    positive = np.isin(pairs, query * C + candidate)
    lost = query[~np.isin(query * C + candidate, pairs)]
    counts = np.bincount(lost, minlength=stop - start)
    behind = np.zeros((stop - start, int(counts.max(initial=0))), np.bool_)
    behind[lost, np.arange(len(lost)) - np.repeat(np.cumsum(counts) - counts, counts)] = True
    lowest = np.full(behind.shape, -np.inf, np.float32)
    return np.concatenate([scores, lowest], 1), np.concatenate([positive, behind], 1)


def rows_at_a_time(columns: int) -> int:
    """Rows of so many float32 similarities that fit the chunk; one at least."""
    return max(1, CHUNK_BYTES // (4 * max(1, columns)))
