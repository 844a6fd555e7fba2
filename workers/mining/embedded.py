"""The search by a model: cosines of vectors that lie in the Parquet files of `workers.embed`.

Reads the candidates' vectors once for all shards that are mined together: for 16,384 queries and ranks up to 100 the
search takes some 90 MB, and a block of candidates a shard's vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from workers.evaluate.search import TopK
from workers.mining.mine import Ranked
from workers.mining.nearest import Block, nearest, scores_of_pairs
from workers.mining.pairs import Pairs
from workers.mining.pool import Pool

Vectors = Callable[[int], tuple[NDArray[np.int64], NDArray[np.float32]]]
"""A shard's number -> places of its samples (n,), ascending, and their vectors (n, d)."""


class EmbeddedSearch:
    """A `Search`. Samples whose query could not be embedded are not ranked."""

    def __init__(self, pairs: Sequence[Pairs], pool: Pool, corpus: int, queries: Vectors, documents: Vectors) -> None:
        """The first `corpus` shards hold the candidates."""
        self._pairs = pairs
        self._pool = pool
        self._corpus = corpus
        self._queries = queries
        self._documents = documents

    def __call__(self, shards: Sequence[int], k: int) -> list[Ranked]:
        """As `Search`."""
        rows, queries, positive_scores = zip(*(self._asking(shard) for shard in shards), strict=True)
        found = nearest(np.concatenate(queries), self._blocks(), k)
        cuts = np.cumsum([len(each) for each in rows])[:-1]
        parts = zip(np.split(found.scores, cuts), np.split(found.indexes, cuts), strict=True)
        return [
            Ranked(each, TopK(*part), scores) for each, part, scores in zip(rows, parts, positive_scores, strict=True)
        ]

    def _asking(self, shard: int) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Rows that have a query's vector, those vectors, and their cosines with their own documents."""
        pairs = self._pairs[shard]
        places, vectors = self._queries(shard)
        there, at = _places_in(places, pairs.places)
        rows = np.flatnonzero(pairs.asks & there)
        queries = vectors[at[rows]]
        places, vectors = self._documents(shard)
        there, at = _places_in(places, pairs.places[rows])
        scores = np.full(len(rows), np.nan, np.float32)
        scores[there] = scores_of_pairs(queries[there], vectors[at[there]])
        return rows, queries, scores

    def _blocks(self) -> Iterator[Block]:
        for shard in range(self._corpus):
            numbers, rows = self._pool.candidates_of(shard)
            if len(numbers):
                places, vectors = self._documents(shard)
                there, at = _places_in(places, self._pairs[shard].places[rows])
                yield Block(numbers[there], vectors[at[there]])


def _places_in(places: NDArray[np.int64], wanted: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether each of `wanted` is among the ascending `places`, and where."""
    at = np.searchsorted(places, wanted)
    there = at < len(places)
    there[there] = places[at[there]] == wanted[there]
    return there, at
