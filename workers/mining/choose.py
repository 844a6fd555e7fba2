"""A query's nearest candidates -> its negatives. Pure: the same candidates, in any order, give the same negatives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jobspecs.mining import MaxSimilarity, Mining
from workers.data.keyed import permutation


def choose(
    keys: NDArray[np.int64],
    scores: NDArray[np.float32],
    query: int,
    known: NDArray[np.int64],
    positive_score: float,
    mining: Mining,
) -> NDArray[np.int64]:
    """Places of the negatives among the candidates, `mining.count` at most, the nearest first.

    keys, scores: (n,), the best `mining.ranks.last` candidates that are not known to answer the query, and any others
    that score no better; contents by their keys, a score that is no finite number finds nothing.
    query: its key. known: keys of all documents that answer it, or another query of its sample. positive_score: of the
    sample's own document; NaN, of one that could not be scored, where there is a relative bound, leaves no negative.
    """
    # Of equal scores the smaller key is first; of copies the best.
    order = np.lexsort((keys, -scores))
    order = order[np.isfinite(scores[order]) & ~np.isin(keys[order], known)]
    _, firsts = np.unique(keys[order], return_index=True)
    order = order[np.sort(firsts)]
    order = order[mining.ranks.first - 1 : mining.ranks.last]
    # In float64: beside fp32, NumPy would round the bound.
    order = order[scores[order].astype(np.float64) <= bound(mining.max_similarity_to_positive, positive_score)]
    if mining.sampling == "random":
        drawn = permutation(len(order), mining.seed, "mining", query)[: mining.count]
        return order[np.sort(drawn)]
    return order[: mining.count]


def bound(section: MaxSimilarity, positive_score: float) -> float:
    """The largest score that a negative may have; infinity where there is no bound, NaN where it is not known."""
    bounds = [np.inf]
    if section.relative is not None:
        bounds.append(positive_score - (1 - section.relative) * abs(positive_score))
    if section.absolute is not None:
        bounds.append(section.absolute)
    return float(np.min(bounds))
