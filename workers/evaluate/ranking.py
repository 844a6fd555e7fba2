"""Measures of rankings under ties: what a query scores on average over all orders of the tied candidates.

With "strictly greater" ranking a collapsed model, whose scores are all equal, would score 100 %; here it
scores exactly chance, and so does one whose scores are all NaN. Scores that differ by rounding alone tie:
candidates that are equal to the model come from products of other shapes, and those round differently. Pure NumPy.

    places = Places.of(scores, positive)      where the positives of each query stand
    hits(places, (1, 5)), ndcg(places, 10)    what that scores, query by query
    ndcg(Places.at_random(positives, C), 10)  and what a random order scores: chance

Letters: Q queries, C candidates, P positives of a query, p pairs (query, positive).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROUNDING = 2.0**-18
"""Scores of about 1 that are no further apart are a tie: 64 times the precision of fp32 at 1."""
_CHUNK_BYTES = 32 << 20
"""Of scores that are compared at a time; the comparisons take as much again."""
_LOWEST = -1e30
"""Below all scores, and with a difference to itself that is a number."""


@dataclass(frozen=True)
class Places:
    """Where positives stand in the rankings of Q queries: a row for each pair (query, positive), by query. A positive
    with `above` candidates before it has each of the ranks above + 1 … above + level with the same probability."""

    query: NDArray[np.int64]
    """(p,), ascending."""
    above: NDArray[np.int64]
    """(p,): candidates with a larger score."""
    level: NDArray[np.int64]
    """(p,): candidates with the same score, itself included."""
    positives_above: NDArray[np.int64]
    """(p,): positives of the query among those above."""
    positives_level: NDArray[np.int64]
    """(p,): and among those level, itself included."""
    queries: int

    @classmethod
    def of(cls, scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> Places:
        """Of scores (Q, C), of which `positive` (Q, C) says which are of positives, one in each row at least."""
        scores = _numbers(scores)
        query, candidate = np.nonzero(positive)
        counts = np.empty((4, len(query)), np.int64)
        # Each pair needs a row of C comparisons.
        pairs = max(1, _CHUNK_BYTES // (scores.itemsize * max(1, scores.shape[1])))
        for start in range(0, len(query), pairs):
            part = slice(start, start + pairs)
            rows, is_positive = scores[query[part]], positive[query[part]]
            own = scores[query[part], candidate[part]][:, None]
            above = rows > own + ROUNDING
            level = (rows >= own - ROUNDING) & ~above
            counts[:, part] = [each.sum(1) for each in (above, level, above & is_positive, level & is_positive)]
        return cls(query, counts[0], counts[1], counts[2], counts[3], len(scores))

    @classmethod
    def at_random(cls, positives: NDArray[np.int64], candidates: int) -> Places:
        """Of queries with so many `positives` (Q,) each, all of whose candidates tie."""
        query = np.repeat(np.arange(len(positives)), positives)
        nothing, all_level = np.zeros_like(query), np.full_like(query, candidates)
        return cls(query, nothing, all_level, nothing, positives[query], queries=len(positives))

    @property
    def positives(self) -> NDArray[np.int64]:
        """(Q,): how many each query has."""
        return np.bincount(self.query, minlength=self.queries)

    def sums(self, of_pairs: NDArray[np.float64]) -> NDArray[np.float64]:
        """(Q,): the sum of (p,) over the positives of each query."""
        return np.bincount(self.query, of_pairs, minlength=self.queries).astype(np.float64, copy=False)

    def first(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(Q,) each, of the best positives: negatives above them, negatives level with them, positives level."""
        # Stable: the best of each query stands first.
        order = np.lexsort((self.above, self.query))
        best = order[np.searchsorted(self.query, np.arange(self.queries))]
        level = self.positives_level[best]
        return self.above[best] - self.positives_above[best], self.level[best] - level, level


def hits(places: Places, ks: tuple[int, ...]) -> NDArray[np.float64]:
    """(Q, len(ks)): probability that one of a query's positives is among its k best candidates.

    With g negatives above the best positive, and t negatives and p positives that score what it scores, the first
    k - g places go to a random order of those t + p, so the chance that only negatives stand there is
    C(t, k - g) / C(t + p, k - g).

    Scores [0.9, 0.5, 0.5] with the second positive: g = 1, t = 1, p = 1; hit@1 = 0, hit@2 = 1/2, hit@3 = 1.
    """
    above, tied, tied_positive = places.first()
    return np.stack([1 - _only_negatives(tied, tied_positive, k - above) for k in ks], axis=1)


def recall(places: Places, ks: tuple[int, ...]) -> NDArray[np.float64]:
    """(Q, len(ks)): the share of a query's positives that is among its k best candidates, at most min(k, P) / P.

    Scores [0.9, 0.5, 0.5] with the last two positive: recall@2 = 1/2, recall@3 = 1.
    """
    return np.stack([places.sums(_within(places, k)) / places.positives for k in ks], axis=1)


def rank_of_first(places: Places) -> NDArray[np.float64]:
    """(Q,): the expected rank, from 1, of the first positive: with g negatives above it, and t negatives and p
    positives level, g + 1 + t/(p + 1). Of a random order (C + 1)/(P + 1).

    Scores [0.9, 0.5, 0.5] with the second positive: rank 2 or 3, 2.5.
    """
    above, tied, tied_positive = places.first()
    ranks: NDArray[np.float64] = above + 1 + tied / (tied_positive + 1)
    return ranks


def reciprocal_rank(places: Places, k: int) -> NDArray[np.float64]:
    """(Q,): expected 1 / rank of the first positive, 0 behind rank k (MRR@k before its mean). The first positive has
    rank r with probability hit@r - hit@(r - 1).

    Scores [0.9, 0.5, 0.5] with the second positive: rank 2 or 3, (1/2 + 1/3) / 2 = 5/12.
    """
    at_rank = np.diff(hits(places, tuple(range(1, k + 1))), axis=1, prepend=0.0)
    reciprocal: NDArray[np.float64] = at_rank @ (1 / np.arange(1, k + 1))
    return reciprocal


def ndcg(places: Places, k: int) -> NDArray[np.float64]:
    """(Q,): expected nDCG@k with binary relevance (Järvelin & Kekäläinen 2002; ties as McSherry & Najork 2008, §2.3,
    and scikit-learn's `ndcg_score` have them).

    DCG@k sums 1 / log2(1 + rank) over the positives of rank <= k; nDCG divides by that of a ranking with all
    positives in front. With D(j) the sum of the first j discounts, a positive with a candidates above it and n level
    gives (D(min(a + n, k)) - D(min(a, k))) / n.

    Scores [0.9, 0.5, 0.5] with the second positive: (1/log2(3) + 1/log2(4)) / 2 = 0.565.
    """
    D = _sums(1 / np.log2(np.arange(2, k + 2)))
    a, n = places.above, places.level
    gains = places.sums((D[np.minimum(a + n, k)] - D[np.minimum(a, k)]) / n)
    # Ties by rounding aren't transitive: without the minimum it could be 1 and a little.
    return np.minimum(gains / D[np.minimum(places.positives, k)], 1.0)


def average_precision(places: Places, k: int) -> NDArray[np.float64]:
    """(Q,): expected average precision at k (MAP@k before its mean; ties as McSherry & Najork 2008, §2.6).

    AP@k sums, over the positives of rank r <= k, the share of positives among the first r, and divides by min(P, k):
    a ranking with all positives in front has 1. (TREC's `map_cut` divides by P, which is the same where P <= k.)
    A positive with a candidates above it, b of them positive, and n level, m of them positive, has rank a + j with
    probability 1/n, and then b + 1 + (j - 1)(m - 1)/(n - 1) positives on average among the first a + j. With
    J = min(n, k - a) ranks that count and H = Σ 1/(a + j) over them, it gives
    ((b + 1)·H + (m - 1)/(n - 1)·(J - (a + 1)·H)) / n.

    Scores [0.9, 0.5, 0.5] with the second positive: (1/2 + 1/3) / 2 = 5/12.
    """
    inverse = _sums(1 / np.arange(1, k + 1))
    a, n = places.above, places.level
    b, m = places.positives_above, places.positives_level
    J = np.clip(k - a, 0, n)
    H = inverse[np.minimum(a, k) + J] - inverse[np.minimum(a, k)]
    others = (m - 1) / np.maximum(n - 1, 1)
    precisions = places.sums(((b + 1) * H + others * (J - (a + 1) * H)) / n)
    return np.minimum(precisions / np.minimum(places.positives, k), 1.0)


def _within(places: Places, k: int) -> NDArray[np.float64]:
    """(p,): probability of each positive to be among the k best."""
    share: NDArray[np.float64] = np.clip(k - places.above, 0, places.level) / places.level
    return share


def _numbers(scores: NDArray[np.floating]) -> NDArray[np.floating]:
    """What is no number is nobody's best: without this, a model of NaN alone would score 100 %."""
    numbers: NDArray[np.floating] = np.nan_to_num(scores, nan=_LOWEST, neginf=_LOWEST, posinf=-_LOWEST)
    return numbers


def _sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(k + 1,): the sums of the first 0 … k of (k,)."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _only_negatives(t: NDArray[np.int64], p: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.float64]:
    """C(t, j) / C(t + p, j) for j = places, as the product of (t - i) / (t + p - i) over i < j."""
    result = np.ones(len(t))
    for i in range(max(0, int(places.max(initial=0)))):
        numerator = np.maximum(t - i, 0)
        result *= np.where(i < places, numerator / np.maximum(t + p - i, 1), 1.0)
    return result
