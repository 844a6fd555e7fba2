"""Ranks under ties: what a query scores on average over all orders of the tied candidates.

With "strictly greater" ranking a collapsed model, whose scores are all equal, would score 100 %; here it
scores exactly chance, and so does one whose scores are all NaN. Pure NumPy.

Letters: Q queries, C candidates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
    # What is no number is nobody's best: without this, a model of NaN alone would score 100 %.
    scores = np.where(np.isnan(scores), -np.inf, scores)
    best = np.where(positive, scores, -np.inf).max(1, keepdims=True)
    above = (~positive & (scores > best)).sum(1)
    tied = (~positive & (scores == best)).sum(1)
    tied_positive = (positive & (scores == best)).sum(1)
    return np.stack([1 - _only_negatives(tied, tied_positive, k - above) for k in ks], axis=1)


def _only_negatives(t: NDArray[np.int64], p: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.float64]:
    """C(t, j) / C(t + p, j) for j = places, as the product of (t - i) / (t + p - i) over i < j."""
    result = np.ones(len(t))
    for i in range(max(0, int(places.max(initial=0)))):
        numerator = np.maximum(t - i, 0)
        result *= np.where(i < places, numerator / np.maximum(t + p - i, 1), 1.0)
    return result


def chance_of_hit(positives: NDArray[np.int64], candidates: int, k: int) -> float:
    """Mean over the queries of hit@k of a random order, with `positives` of each query among `candidates`."""
    places = np.full(len(positives), min(k, candidates))
    return float((1 - _only_negatives(candidates - positives, positives, places)).mean())
