"""Shards -> the negatives of their samples, for any way to search.

Which shards are mined together changes nothing: candidates, their scores and the draws depend on contents alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jobspecs.mining import Mining
from workers.evaluate.search import TopK
from workers.mining.choose import choose
from workers.mining.pairs import Pairs
from workers.mining.pool import Pool
from workers.storage import ObjectInfo, Storage


@dataclass(frozen=True)
class Ranked:
    """The nearest candidates of a shard's samples. n samples."""

    rows: NDArray[np.int64]
    """(n,): which rows of the shard's `Pairs`: those with a query that could be scored."""
    nearest: TopK
    """(n, k): candidates by their numbers in the pool."""
    positive_scores: NDArray[np.float32]
    """(n,): of their own documents; NaN where there is none."""


class Search(Protocol):
    """A way to rank candidates."""

    def __call__(self, shards: Sequence[int], k: int) -> list[Ranked]:
        """The k nearest candidates of the samples of each of the shards, by number."""


@dataclass(frozen=True)
class Mined:
    """The negatives of a shard's samples. n samples, those that were mined."""

    places: NDArray[np.int64]
    """(n,), ascending: their numbers in the tar."""
    negatives: list[list[str]]
    """Of each, the nearest first; none where nothing passed."""


class Sink(Protocol):
    """Where the negatives of a shard go."""

    def write(self, storage: Storage, shard: ObjectInfo, out: str, pairs: Pairs, mined: Mined, count: int) -> object:
        """Writes them to the URI `out`. count: negatives that were asked for, of each sample. Raises DataError,
        StorageError."""


def mine(
    shards: Sequence[int],
    pairs: Sequence[Pairs],
    pool: Pool,
    search: Search,
    texts: Callable[[int], Sequence[str]],
    mining: Mining,
) -> list[Mined]:
    """The negatives of each of `shards`, by their numbers in `pairs`.

    texts(shard): documents of the rows of its `Pairs`. It is called once for each shard that negatives come from.
    """
    # Known positives take places of a ranking, and are left out of it.
    most = max((pool.most_known(pairs[shard]) for shard in shards), default=0)
    ranked = search(shards, mining.ranks.last + most)
    chosen = [_chosen(one, pairs[shard], pool, mining) for shard, one in zip(shards, ranked, strict=True)]
    all_chosen = np.concatenate([np.empty(0, np.int64), *(numbers for rows in chosen for numbers in rows)])
    by_number = _texts_of(np.unique(all_chosen), pool, texts)
    return [
        Mined(pairs[shard].places[one.rows], [[by_number[number] for number in row.tolist()] for row in numbers])
        for shard, one, numbers in zip(shards, ranked, chosen, strict=True)
    ]


def _chosen(ranked: Ranked, pairs: Pairs, pool: Pool, mining: Mining) -> list[NDArray[np.int64]]:
    """Numbers of the negatives of each row."""
    chosen = []
    for place, row in enumerate(ranked.rows.tolist()):
        numbers, scores = ranked.nearest.indexes[place], ranked.nearest.scores[place]
        found = numbers >= 0
        numbers, scores = numbers[found], scores[found]
        query = int(pairs.queries[row])
        known = pool.known(pairs.queries_of(row))
        positive_score = float(ranked.positive_scores[place])
        chosen.append(numbers[choose(pool.keys[numbers], scores, query, known, positive_score, mining)])
    return chosen


def _texts_of(numbers: NDArray[np.int64], pool: Pool, texts: Callable[[int], Sequence[str]]) -> dict[int, str]:
    """Texts of documents by their numbers, shard after shard."""
    found: dict[int, str] = {}
    shards = pool.shards[numbers]
    for shard in np.unique(shards).tolist():
        of_shard, here = texts(shard), numbers[shards == shard]
        found.update(zip(here.tolist(), (of_shard[row] for row in pool.rows[here].tolist()), strict=True))
    return found
