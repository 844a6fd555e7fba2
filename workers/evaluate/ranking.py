"""Ranks under ties: what a query scores on average over all orders of the tied candidates.

With "strictly greater" ranking a collapsed model, whose scores are all equal, would score 100 %; here it
scores exactly chance, and so does one whose scores are all NaN. Scores that differ by rounding alone tie:
candidates that are equal to the model come from products of other shapes, and those round differently. Pure NumPy.

Letters: Q queries, C candidates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDING = 2.0**-18
"""Scores of about 1 that are no further apart are a tie: 64 times the precision of fp32 at 1."""
_LOWEST = -1e30
"""Below all scores, and with a difference to itself that is a number."""


def expected_hits(
    scores: NDArray[np.floating], positive: NDArray[np.bool_], ks: tuple[int, ...]
) -> NDArray[np.float64]:
    """Probability, for each query and k, that one of its positives is among its k best candidates.

    scores: (Q, C). positive: (Q, C), at least one in each row. Returns (Q, len(ks)).

    Let s be the best score of a positive, g the negatives above it, and t negatives and p positives that
    score s. The first k - g places go to a random order of those t + p, so the chance that only negatives
    stand there is C(t, k - g) / C(t + p, k - g).

    Scores [0.9, 0.5, 0.5] with the second positive: g = 1, t = 1, p = 1; hit@1 = 0, hit@2 = 1/2, hit@3 = 1.
    """
    scores = _numbers(scores)
    best = np.where(positive, scores, _LOWEST).max(1, keepdims=True)
    ahead = scores - best
    level = np.abs(ahead) <= ROUNDING
    above = (~positive & (ahead > ROUNDING)).sum(1)
    tied = (~positive & level).sum(1)
    tied_positive = (positive & level).sum(1)
    return np.stack([1 - _only_negatives(tied, tied_positive, k - above) for k in ks], axis=1)


def expected_reciprocal_rank(scores: NDArray[np.floating], positive: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """Mean over the tie orders of 1 / rank of each query's first positive, 0 behind rank k (MRR@k before its mean).

    scores: (Q, C). positive: (Q, C), at least one in each row. Returns (Q,). The first positive has rank r with
    probability hit@r - hit@(r - 1).

    Scores [0.9, 0.5, 0.5] with the second positive: rank 2 or 3, (1/2 + 1/3) / 2 = 5/12.
    """
    return reciprocal_rank_of_hits(expected_hits(scores, positive, tuple(range(1, k + 1))))


def reciprocal_rank_of_hits(hits: NDArray[np.float64]) -> NDArray[np.float64]:
    """hit@1 … hit@k (Q, k) -> the expected reciprocal rank (Q,) with cutoff k."""
    at_rank = np.diff(hits, axis=1, prepend=0.0)
    reciprocal: NDArray[np.float64] = at_rank @ (1 / np.arange(1, hits.shape[1] + 1))
    return reciprocal


def expected_ndcg(scores: NDArray[np.floating], positive: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """Mean over the tie orders of nDCG@k with binary relevance (Järvelin & Kekäläinen 2002; ties as McSherry &
    Najork 2008, §2.3, and scikit-learn's `ndcg_score` have them).

    scores: (Q, C). positive: (Q, C), at least one in each row. Returns (Q,).

    DCG@k sums 1 / log2(1 + rank) over the positives of rank <= k; nDCG divides by that of a ranking with all
    positives in front. A positive with a candidates above it and n of its score, itself included, has each of the
    ranks a + 1 … a + n with probability 1/n: with D(j) the sum of the first j discounts, it gives
    (D(min(a + n, k)) - D(min(a, k))) / n.

    Scores [0.9, 0.5, 0.5] with the second positive: (1/log2(3) + 1/log2(4)) / 2 = 0.565.
    """
    scores = _numbers(scores)
    D = _discounts(k)
    queries, candidates = np.nonzero(positive)
    gains = np.zeros(len(scores))
    # A query with many positives needs a row of C comparisons for each: not more of them at once than queries.
    for start in range(0, len(queries), max(len(scores), 1)):
        of = queries[start : start + len(scores)]
        own = scores[of, candidates[start : start + len(scores)]][:, None]
        ahead = scores[of] - own
        above, level = (ahead > ROUNDING).sum(1), (np.abs(ahead) <= ROUNDING).sum(1)
        np.add.at(gains, of, (D[np.minimum(above + level, k)] - D[np.minimum(above, k)]) / level)
    # Ties by rounding aren't transitive: without the minimum it could be 1 and a little.
    shares: NDArray[np.float64] = np.minimum(gains / D[np.minimum(positive.sum(1), k)], 1.0)
    return shares


def chance_of_hit(positives: NDArray[np.int64], candidates: int, k: int) -> float:
    """Mean over the queries of hit@k of a random order, with `positives` of each query among `candidates`."""
    places = np.full(len(positives), min(k, candidates))
    return float((1 - _only_negatives(candidates - positives, positives, places)).mean())


def chance_of_ndcg(positives: NDArray[np.int64], candidates: int, k: int) -> float:
    """Mean over the queries of nDCG@k of a random order: each place has a positive with probability P/C."""
    D = _discounts(k)
    return float((positives / candidates * D[min(candidates, k)] / D[np.minimum(positives, k)]).mean())


def _numbers(scores: NDArray[np.floating]) -> NDArray[np.floating]:
    """What is no number is nobody's best: without this, a model of NaN alone would score 100 %."""
    numbers: NDArray[np.floating] = np.nan_to_num(scores, nan=_LOWEST, neginf=_LOWEST, posinf=-_LOWEST)
    return numbers


def _discounts(k: int) -> NDArray[np.float64]:
    """(k + 1,): the sums of the first 0 … k discounts."""
    return np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])


def _only_negatives(t: NDArray[np.int64], p: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.float64]:
    """C(t, j) / C(t + p, j) for j = places, as the product of (t - i) / (t + p - i) over i < j."""
    result = np.ones(len(t))
    for i in range(max(0, int(places.max(initial=0)))):
        numerator = np.maximum(t - i, 0)
        result *= np.where(i < places, numerator / np.maximum(t + p - i, 1), 1.0)
    return result
