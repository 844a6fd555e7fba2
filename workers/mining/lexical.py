"""The search by BM25."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from workers.evaluate.search import TopK
from workers.mining.bm25 import Bm25
from workers.mining.mine import Ranked
from workers.mining.pairs import Pairs
from workers.mining.pool import Pool


class LexicalSearch:
    """A `Search`. Candidates that share no word with the query are not found."""

    def __init__(
        self, pairs: Sequence[Pairs], pool: Pool, index: Bm25, queries: Callable[[int], Sequence[str]]
    ) -> None:
        """index: of the pool's documents. queries(shard): texts of the rows of its `Pairs`."""
        self._pairs = pairs
        self._pool = pool
        self._index = index
        self._queries = queries

    def __call__(self, shards: Sequence[int], k: int) -> list[Ranked]:
        """As `Search`."""
        return [self._ranked(shard, k) for shard in shards]

    def _ranked(self, shard: int, k: int) -> Ranked:
        pairs, queries = self._pairs[shard], self._queries(shard)
        rows = np.flatnonzero(pairs.asks)
        own = self._pool.numbers(pairs.documents[rows])
        scores = np.empty((len(rows), k), np.float32)
        indexes = np.empty((len(rows), k), np.int64)
        positive_scores = np.empty(len(rows), np.float32)
        for place, row in enumerate(rows.tolist()):
            found, positive_scores[place] = self._index.nearest(queries[row], int(own[place]), k)
            scores[place], indexes[place] = found.scores, found.indexes
        return Ranked(rows, TopK(scores, indexes), positive_scores)


def index_of(pool: Pool, texts: Callable[[int], Sequence[str]]) -> Bm25:
    """The index of all documents of a pool. texts(shard): documents of the rows of its `Pairs`."""
    documents = [""] * len(pool.keys)
    for shard in np.unique(pool.shards).tolist():
        of_shard = texts(shard)
        for number in np.flatnonzero(pool.shards == shard).tolist():
            documents[number] = of_shard[int(pool.rows[number])]
    return Bm25(documents, pool.is_candidate)
