"""All shards' pairs -> the distinct documents, which of them are candidates, and which answer which query.

37 bytes a document and 16 a pair: 530 MB for ten million of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.mining.pairs import Pairs


@dataclass(frozen=True)
class Pool:
    """N distinct documents, numbered in the order of their keys; P distinct pairs."""

    keys: NDArray[np.int64]
    """(N,), ascending."""
    shards: NDArray[np.int32]
    """(N,): where a document is found first: the number of the shard,"""
    rows: NDArray[np.int64]
    """(N,): and its row in the shard's `Pairs`."""
    is_candidate: NDArray[np.bool_]
    """(N,)."""
    asked: NDArray[np.int64]
    """(P,), ascending: keys of queries,"""
    answers: NDArray[np.int64]
    """(P,): and the key of a document that answers each."""

    @classmethod
    def of(cls, pairs: Sequence[Pairs], corpus: int) -> Pool:
        """The first `corpus` shards are those whose documents are candidates."""
        counts = [len(each.documents) for each in pairs]
        # A document that several shards have is taken from the first: from one of the corpus, if it is there.
        keys, firsts = np.unique(_joined([each.documents for each in pairs]), return_index=True)
        ends = np.cumsum(counts, dtype=np.int64)
        shards = np.searchsorted(ends, firsts, side="right")
        known = [np.stack([each.queries, each.documents], 1)[each.asks] for each in pairs]
        known += [each.further for each in pairs]
        distinct = np.unique(np.concatenate(known), axis=0) if known else np.empty((0, 2), np.int64)
        return cls(
            keys=keys,
            shards=shards.astype(np.int32),
            rows=firsts - np.append(0, ends)[shards],
            is_candidate=shards < corpus,
            asked=np.ascontiguousarray(distinct[:, 0]),
            answers=np.ascontiguousarray(distinct[:, 1]),
        )

    def known(self, queries: Sequence[int]) -> NDArray[np.int64]:
        """Keys of the documents that answer any of the queries of those keys, some more than once."""
        starts, ends = (np.searchsorted(self.asked, queries, side) for side in ("left", "right"))
        return _joined([self.answers[start:end] for start, end in zip(starts, ends, strict=True)])

    def most_known(self, pairs: Pairs) -> int:
        """At least as many as the documents that answer the queries of any one sample."""
        rows = np.flatnonzero(pairs.asks)
        counts = np.zeros(len(pairs.asks), np.int64)
        counts[rows] = self._spans(pairs.queries[rows])
        further, queries = pairs.alternatives
        np.add.at(counts, further, self._spans(queries))
        return int(counts.max(initial=0))

    def _spans(self, queries: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many documents answer each of the queries of those keys."""
        spans: NDArray[np.int64] = np.searchsorted(self.asked, queries, "right") - np.searchsorted(self.asked, queries)
        return spans

    def numbers(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of documents by their keys, all of which are in the pool."""
        return np.searchsorted(self.keys, keys)

    def candidates_of(self, shard: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of the candidates that are taken from a shard, and their rows in its `Pairs`."""
        numbers = np.flatnonzero(self.is_candidate & (self.shards == shard))
        return numbers, self.rows[numbers]


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
