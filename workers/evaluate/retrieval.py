"""Retrieval between images and texts in both directions, or of documents for queries (pairs.py says what is whose
positive).

`R@k` is the share of queries with a positive among the k best (hit@k, as in CLIP's tables), `recall@k` the share of a
query's positives that is (TREC's recall), `median_rank` the median over the queries of the expected rank of the first
positive. Every score of a query is its mean over the orders of ties. Chance is what a random order scores.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from jobspecs.evaluation import Retrieval
from jobspecs.scores import FOUND, RANKED, WAYS
from workers.evaluate.approximate import approximate_top_k, check_installed
from workers.evaluate.bootstrap import average_of, mean_of, median_of, value
from workers.evaluate.encode import Encoder
from workers.evaluate.pairs import encoded_pairs
from workers.evaluate.ranking import Places, average_precision, hits, ndcg, rank_of_first, recall, reciprocal_rank
from workers.evaluate.relevance import Relevance, measured, measured_found
from workers.evaluate.result import Measured, Scores, scored

KS = (1, 5, 10)
CUTOFF = 10
PRECISION_CUTOFF = 100
FOUND_PLACES = 128
"""Of each query, by approximate search: as many as any measure but the median rank looks at, and some more."""

_MEASURES: tuple[Callable[[Places], NDArray[np.float64]], ...] = (
    lambda places: ndcg(places, CUTOFF),
    lambda places: reciprocal_rank(places, CUTOFF),
    lambda places: average_precision(places, PRECISION_CUTOFF),
    lambda places: hits(places, KS),
    lambda places: recall(places, KS),
    rank_of_first,
)
"""The columns of RANKED."""


def retrieval(spec: Retrieval, encoder: Encoder) -> Scores:
    """Of a model of queries and documents the scores RANKED, `nDCG@10` the main one; of images and texts these in both
    directions, as `image_to_text_R@1`, and their `mean_R@1` (main).

    Approximate search leaves out `median_rank`.

    Raises DataError: a text that can't be read, or fewer than two texts; UsageError: no FAISS for approximate search.
    """
    approximate = spec.search == "approximate"
    if approximate:
        check_installed(spec.name)
    pairs = encoded_pairs(spec, encoder)
    one_way = ranked(pairs.first, pairs.second, pairs.relevance, approximate=approximate)
    groups: tuple[int, ...] = (pairs.relevance.queries,)
    found = one_way
    if pairs.sides == ("image", "text"):
        turned = pairs.relevance.turned()
        other_way = ranked(pairs.second, pairs.first, turned, before=groups[0], approximate=approximate)
        groups = (*groups, pairs.relevance.candidates)
        both = [one_way["R@1"], other_way["R@1"]]
        mean = Measured(average_of([way.statistic for way in both]), float(np.mean([way.chance for way in both])))
        found = {"mean_R@1": mean} | {
            f"{name}_{score}": each
            for name, way in zip(WAYS, (one_way, other_way), strict=True)
            for score, each in way.items()
        }
    return scored(
        spec,
        encoder.data,
        found,
        groups=groups,
        samples=pairs.samples,
        skipped=pairs.skipped,
        data_fingerprint=pairs.fingerprint,
    )


def ranked(
    queries: NDArray[np.float32],
    candidates: NDArray[np.float32],
    relevance: Relevance,
    before: int = 0,
    *,
    approximate: bool = False,
) -> dict[str, Measured]:
    """The scores RANKED, or FOUND by approximate search, of candidates (C, d) ranked for queries (Q, d) by cosine, both
    normalised. before: samples of the evaluation that stand before these queries."""

    def measure(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> NDArray[np.float64]:
        return measures(Places.of(scores, positive))

    random = measures(Places.at_random(relevance.positives, relevance.candidates))
    if approximate:
        best = approximate_top_k(queries, candidates, min(FOUND_PLACES, len(candidates)))
        found = measured_found(best, relevance, measure)
    else:
        found = measured(queries, candidates, relevance, measure)
    chances = summary(random)
    return {
        name: Measured((median_of if name == "median_rank" else mean_of)(found[:, i], before), chances[name])
        for i, name in enumerate(FOUND if approximate else RANKED)
    }


def measures(places: Places) -> NDArray[np.float64]:
    """(Q, len(RANKED)): what each query scores."""
    return np.column_stack([measure(places) for measure in _MEASURES])


def summary(of_queries: NDArray[np.float64]) -> dict[str, float]:
    """The scores by name of what `measures` found."""
    return {
        name: value((median_of if name == "median_rank" else mean_of)(of_queries[:, i]), len(of_queries))
        for i, name in enumerate(RANKED)
    }
