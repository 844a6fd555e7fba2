"""Ranks under ties against all orders of the candidates, and accuracies against scikit-learn's."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise, permutations

import numpy as np
import pytest
import pytrec_eval
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jobspecs.scores import RANKED
from workers.evaluate.classification import accuracies
from workers.evaluate.ranking import (
    ROUNDING,
    Places,
    average_precision,
    hits,
    ndcg,
    rank_of_first,
    recall,
    reciprocal_rank,
)
from workers.evaluate.retrieval import measures

Judged = list[bool]
"""Whether the candidate at each rank is a positive, the best first."""


def mean_over_all_orders(scores: list[float], positive: list[bool], measure: Callable[[Judged], float]) -> float:
    """Of the orders with descending scores."""
    orders = [
        order for order in permutations(range(len(scores))) if all(scores[a] >= scores[b] for a, b in pairwise(order))
    ]
    return sum(measure([positive[i] for i in order]) for order in orders) / len(orders)


def hit_of(k: int) -> Callable[[Judged], float]:
    return lambda judged: float(any(judged[:k]))


def recall_of(k: int) -> Callable[[Judged], float]:
    return lambda judged: sum(judged[:k]) / sum(judged)


def reciprocal_rank_of(k: int) -> Callable[[Judged], float]:
    return lambda judged: next((1 / rank for rank, relevant in enumerate(judged[:k], 1) if relevant), 0.0)


def rank_of(judged: Judged) -> float:
    return judged.index(True) + 1


def average_precision_of(k: int) -> Callable[[Judged], float]:
    def precision(judged: Judged) -> float:
        at = [sum(judged[:rank]) / rank for rank, relevant in enumerate(judged[:k], 1) if relevant]
        return sum(at) / min(k, sum(judged))

    return precision


def ndcg_of(k: int) -> Callable[[Judged], float]:
    def gain(judged: Judged) -> float:
        return sum(1 / math.log2(1 + rank) for rank, relevant in enumerate(judged[:k], 1) if relevant)

    return lambda judged: gain(judged) / gain(sorted(judged, reverse=True))


@st.composite
def queries(draw: st.DrawFn) -> tuple[list[float], list[bool]]:
    """Up to 6 candidates with few different scores, so that most of them tie."""
    scores = draw(st.lists(st.sampled_from([-0.5, 0.0, 0.25, 1.0]), min_size=1, max_size=6))
    positive = draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)).filter(any))
    return scores, positive


@settings(max_examples=150, deadline=None)
@given(query=queries())
def test_is_the_mean_over_all_orders_of_the_ties(query: tuple[list[float], list[bool]]) -> None:
    scores, positive = query
    ks = tuple(range(1, len(scores) + 3))
    places = Places.of(np.array([scores], np.float32), np.array([positive]))
    for found, of in ((hits(places, ks), hit_of), (recall(places, ks), recall_of)):
        assert found[0] == pytest.approx([mean_over_all_orders(scores, positive, of(k)) for k in ks])
    assert rank_of_first(places) == pytest.approx([mean_over_all_orders(scores, positive, rank_of)])
    for k in ks:
        for measure, of in (
            (reciprocal_rank, reciprocal_rank_of),
            (ndcg, ndcg_of),
            (average_precision, average_precision_of),
        ):
            assert measure(places, k) == pytest.approx([mean_over_all_orders(scores, positive, of(k))])


def test_docstring_examples() -> None:
    places = Places.of(np.array([[0.9, 0.5, 0.5]]), np.array([[False, False, True]]))
    assert hits(places, (1, 2, 3)).tolist() == [[0.0, 0.5, 1.0]]
    assert reciprocal_rank(places, 10) == pytest.approx([5 / 12])
    assert average_precision(places, 100) == pytest.approx([5 / 12])
    assert ndcg(places, 10) == pytest.approx([0.565], abs=1e-3)
    assert rank_of_first(places).tolist() == [2.5]
    two = Places.of(np.array([[0.9, 0.5, 0.5]]), np.array([[False, True, True]]))
    assert recall(two, (2, 3)).tolist() == [[0.5, 1.0]]


def judged(queries: int, candidates: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores without ties, and one to some ten positives a query."""
    rng = np.random.default_rng(seed)
    scores = np.argsort(rng.random((queries, candidates)), 1) / candidates
    positive = rng.random((queries, candidates)) < 0.1
    positive[np.arange(queries), rng.integers(0, candidates, queries)] = True
    return scores, positive


def test_all_are_trecs() -> None:
    scores, positive = judged(40, 130, 0)
    places = Places.of(scores, positive)
    found = {
        "map_cut_100": average_precision(places, 100),
        "ndcg_cut_10": ndcg(places, 10),
        "recip_rank": reciprocal_rank(places, 130),
        **{f"recall_{k}": recall(places, (k,))[:, 0] for k in (1, 5, 10)},
        **{f"success_{k}": hits(places, (k,))[:, 0] for k in (1, 5, 10)},
    }
    relevant = {f"q{q}": {f"d{c}": 1 for c in np.flatnonzero(row)} for q, row in enumerate(positive)}
    run = {f"q{q}": {f"d{c}": float(score) for c, score in enumerate(row)} for q, row in enumerate(scores)}
    wanted = {"map_cut.100", "ndcg_cut.10", "recip_rank", "recall.1,5,10", "success.1,5,10"}
    judge = pytrec_eval.RelevanceEvaluator(relevant, wanted).evaluate(run)
    for name, values in found.items():
        assert values == pytest.approx([judge[f"q{q}"][name] for q in range(40)], abs=1e-6), name
    assert 0.02 < found["map_cut_100"].mean() < 0.5
    by_hand = [1 + (row > row[own].max()).sum() for row, own in zip(scores, positive, strict=True)]
    assert rank_of_first(places).tolist() == by_hand


def test_average_precision_without_a_cutoff_is_scikit_learns() -> None:
    scores, positive = judged(30, 50, 1)
    expected = [sklearn.metrics.average_precision_score(*each) for each in zip(positive, scores, strict=True)]
    assert average_precision(Places.of(scores, positive), 50) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 3, 10, 99])
@pytest.mark.parametrize("values", [4, 1_000_000])
def test_ndcg_is_scikit_learns_which_averages_ties(k: int, values: int) -> None:
    rng = np.random.default_rng(k)
    scores, positive = rng.integers(0, values, (40, 30)) / 8.0, rng.random((40, 30)) < 0.15
    positive[np.arange(40), rng.integers(0, 30, 40)] = True
    expected = [
        sklearn.metrics.ndcg_score(positive[i : i + 1], scores[i : i + 1], k=k, ignore_ties=False) for i in range(40)
    ]
    assert ndcg(Places.of(scores, positive), k) == pytest.approx(expected)


def test_mrr_is_scikit_learns_where_each_query_has_one_positive() -> None:
    rng = np.random.default_rng(3)
    scores = rng.random((40, 30))
    positive = np.arange(30) == rng.integers(0, 30, 40)[:, None]
    expected = sklearn.metrics.label_ranking_average_precision_score(positive, scores)
    assert reciprocal_rank(Places.of(scores, positive), 30).mean() == pytest.approx(expected)


def test_scores_that_differ_by_rounding_tie() -> None:
    scores = np.full((1, 4), 0.7, np.float32) + np.array([3, 0, 1, 2], np.float32) * np.float32(ROUNDING / 8)
    positive = np.array([[False, True, False, False]])
    places, even = Places.of(scores, positive), Places.of(np.zeros((1, 4)), positive)
    assert hits(places, (1, 2)).tolist() == [[0.25, 0.5]]
    assert ndcg(places, 3) == pytest.approx(ndcg(even, 3))
    assert average_precision(places, 3) == pytest.approx(average_precision(even, 3))
    apart = Places.of(np.array([[0.5, 0.5 + 2 * ROUNDING]]), np.array([[True, False]]))
    assert hits(apart, (1,)).tolist() == [[0.0]]


def test_ties_by_rounding_give_no_more_than_1() -> None:
    # Each ties with its neighbours, none with those beyond.
    scores = np.arange(9)[None] * ROUNDING * 0.9
    for positives in range(1, 10):
        places = Places.of(scores, np.arange(9)[None] >= 9 - positives)
        for k in (1, 2, 5, 10):
            assert ndcg(places, k)[0] <= 1
            assert average_precision(places, k)[0] <= 1


def test_queries_are_scored_independently() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 3, (20, 6)).astype(float), rng.random((20, 6)) < 0.4
    positive[:, 0] = True
    alone = [Places.of(scores[i : i + 1], positive[i : i + 1]) for i in range(20)]
    together = Places.of(scores, positive)
    np.testing.assert_allclose(hits(together, (1, 3)), [hits(each, (1, 3))[0] for each in alone])
    np.testing.assert_allclose(average_precision(together, 4), [average_precision(each, 4)[0] for each in alone])


def test_chunks_of_pairs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, positive = judged(20, 30, 3)
    whole = measures(Places.of(scores, positive))
    monkeypatch.setattr("workers.evaluate.ranking._CHUNK_BYTES", 8 * 30 * 3)
    assert measures(Places.of(scores, positive)).tolist() == whole.tolist()


@pytest.mark.parametrize("value", [0.0, 1.0, -np.inf, np.nan])
def test_a_collapsed_model_scores_exactly_chance(value: float) -> None:
    rng = np.random.default_rng(1)
    positive = rng.random((30, 12)) < 0.2
    positive[np.arange(30), rng.integers(0, 12, 30)] = True
    collapsed = measures(Places.of(np.full((30, 12), value, np.float32), positive))
    assert collapsed == pytest.approx(measures(Places.at_random(positive.sum(1), 12)), rel=1e-12)
    assert collapsed[:, RANKED.index("R@1")].mean() == pytest.approx(positive.mean())


def test_a_score_that_is_no_number_is_never_best() -> None:
    scores = np.array([[np.nan, 0.1, 0.2], [0.5, np.nan, np.nan]])
    places = Places.of(scores, np.array([[True, False, False], [True, False, False]]))
    assert hits(places, (1, 2, 3)).tolist() == [[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]]
    assert ndcg(places, 3) == pytest.approx([0.5, 1.0])
    assert rank_of_first(places).tolist() == [3, 1]


def test_chance_is_what_random_scores_give() -> None:
    rng = np.random.default_rng(2)
    positives = np.array([1, 2, 5] * 2000)
    positive = np.arange(9) < positives[:, None]
    found = measures(Places.of(rng.random((6000, 9)), positive)).mean(0)
    # 6,000 draws: a standard deviation is 0.006 at most, and 0.03 of a rank.
    assert found == pytest.approx(measures(Places.at_random(positives, 9)).mean(0), abs=0.02, rel=0.03)


def test_chance_in_closed_form() -> None:
    def chance(positives: int, candidates: int, k: int) -> float:
        return float(hits(Places.at_random(np.array([positives]), candidates), (k,))[0, 0])

    assert chance(1, 10, 1) == pytest.approx(0.1)
    assert chance(1, 10, 5) == pytest.approx(0.5)
    # 1 - C(8, 3) / C(10, 3)
    assert chance(2, 10, 3) == pytest.approx(1 - 56 / 120)
    assert chance(1, 4, 5) == 1.0
    assert rank_of_first(Places.at_random(np.array([3]), 11)).tolist() == [3.0]
    assert recall(Places.at_random(np.array([3]), 12), (6,)).tolist() == [[0.5]]


def untied(n: int, classes: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(n)
    labels = rng.integers(0, classes, n)
    scores = rng.standard_normal((n, classes)) + 1.2 * (np.arange(classes) == labels[:, None])
    return scores.astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 5, 6, 10])
def test_accuracies_are_scikit_learns(classes: int) -> None:
    scores, labels = untied(300, classes)
    found = accuracies(scores, labels)
    best = scores.argmax(1)
    expected = {
        "acc@1": sklearn.metrics.accuracy_score(labels, best),
        "mean_per_class_recall": sklearn.metrics.balanced_accuracy_score(labels, best),
    }
    if classes > 5:
        every = np.arange(classes)
        expected["acc@5"] = sklearn.metrics.top_k_accuracy_score(labels, scores, k=5, labels=every)
    assert found == pytest.approx(expected)
    assert 0.2 < found["acc@1"] < 0.95


def test_classes_without_an_image_have_no_recall() -> None:
    scores, labels = untied(300, 10)
    kept = labels < 4
    found = accuracies(scores[kept], labels[kept])["mean_per_class_recall"]
    best = scores[kept].argmax(1)
    assert found == pytest.approx(np.mean([(best == c)[labels[kept] == c].mean() for c in range(4)]))
