"""Ranks under ties against all orders of the candidates, and accuracies against scikit-learn's."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise, permutations

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.evaluate.classification import accuracies
from workers.evaluate.ranking import (
    ROUNDING,
    chance_of_hit,
    chance_of_ndcg,
    expected_hits,
    expected_ndcg,
    expected_reciprocal_rank,
)

Judged = list[bool]
"""Whether the candidate at each rank is a positive, the best first."""


def mean_over_all_orders(scores: list[float], positive: list[bool], measure: Callable[[Judged], float]) -> float:
    """Of the orders with descending scores."""
    orders = [
        order for order in permutations(range(len(scores))) if all(scores[a] >= scores[b] for a, b in pairwise(order))
    ]
    return sum(measure([positive[i] for i in order]) for order in orders) / len(orders)


def hit(k: int) -> Callable[[Judged], float]:
    return lambda judged: float(any(judged[:k]))


def reciprocal_rank(k: int) -> Callable[[Judged], float]:
    return lambda judged: next((1 / rank for rank, relevant in enumerate(judged[:k], 1) if relevant), 0.0)


def ndcg(k: int) -> Callable[[Judged], float]:
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
    given, judged = np.array([scores], np.float32), np.array([positive])
    found = expected_hits(given, judged, ks)[0]
    assert found == pytest.approx([mean_over_all_orders(scores, positive, hit(k)) for k in ks])
    for k in ks:
        expected = mean_over_all_orders(scores, positive, reciprocal_rank(k))
        assert expected_reciprocal_rank(given, judged, k) == pytest.approx([expected])
        assert expected_ndcg(given, judged, k) == pytest.approx([mean_over_all_orders(scores, positive, ndcg(k))])


def test_docstring_example() -> None:
    hits = expected_hits(np.array([[0.9, 0.5, 0.5]]), np.array([[False, False, True]]), (1, 2, 3))
    assert hits.tolist() == [[0.0, 0.5, 1.0]]
    given = np.array([[0.9, 0.5, 0.5]]), np.array([[False, False, True]])
    assert expected_reciprocal_rank(*given, 10) == pytest.approx([5 / 12])
    assert expected_ndcg(*given, 10) == pytest.approx([0.565], abs=1e-3)


@pytest.mark.parametrize("k", [1, 3, 10, 99])
@pytest.mark.parametrize("values", [4, 1_000_000])
def test_ndcg_is_scikit_learns_which_averages_ties(k: int, values: int) -> None:
    rng = np.random.default_rng(k)
    scores, positive = rng.integers(0, values, (40, 30)) / 8.0, rng.random((40, 30)) < 0.15
    positive[np.arange(40), rng.integers(0, 30, 40)] = True
    expected = [
        sklearn.metrics.ndcg_score(positive[i : i + 1], scores[i : i + 1], k=k, ignore_ties=False) for i in range(40)
    ]
    assert expected_ndcg(scores, positive, k) == pytest.approx(expected)


def test_mrr_is_scikit_learns_where_each_query_has_one_positive() -> None:
    rng = np.random.default_rng(3)
    scores = rng.random((40, 30))
    positive = np.arange(30) == rng.integers(0, 30, 40)[:, None]
    expected = sklearn.metrics.label_ranking_average_precision_score(positive, scores)
    assert expected_reciprocal_rank(scores, positive, 30).mean() == pytest.approx(expected)


def test_scores_that_differ_by_rounding_tie() -> None:
    scores = np.full((1, 4), 0.7, np.float32) + np.array([3, 0, 1, 2], np.float32) * np.float32(ROUNDING / 8)
    positive = np.array([[False, True, False, False]])
    assert expected_hits(scores, positive, (1, 2)).tolist() == [[0.25, 0.5]]
    even = np.zeros((1, 4))
    assert expected_ndcg(scores, positive, 3) == pytest.approx(expected_ndcg(even, positive, 3))
    apart = np.array([[0.5, 0.5 + 2 * ROUNDING]])
    assert expected_hits(apart, np.array([[True, False]]), (1,)).tolist() == [[0.0]]


def test_ties_by_rounding_give_no_more_than_1() -> None:
    # Each ties with its neighbours, none with those beyond.
    scores = np.arange(9)[None] * ROUNDING * 0.9
    for positives in range(1, 10):
        for k in (1, 2, 5, 10):
            assert expected_ndcg(scores, np.arange(9)[None] >= 9 - positives, k)[0] <= 1


def test_queries_are_scored_independently() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 3, (20, 6)).astype(float), rng.random((20, 6)) < 0.4
    positive[:, 0] = True
    alone = [expected_hits(scores[i : i + 1], positive[i : i + 1], (1, 3))[0] for i in range(20)]
    np.testing.assert_allclose(expected_hits(scores, positive, (1, 3)), alone)


@pytest.mark.parametrize("value", [0.0, 1.0, -np.inf, np.nan])
def test_a_collapsed_model_scores_exactly_chance(value: float) -> None:
    rng = np.random.default_rng(1)
    positive = rng.random((30, 12)) < 0.2
    positive[np.arange(30), rng.integers(0, 12, 30)] = True
    hits = expected_hits(np.full((30, 12), value, np.float32), positive, (1, 5, 10)).mean(0)
    chances = [chance_of_hit(positive.sum(1), 12, k) for k in (1, 5, 10)]
    assert hits == pytest.approx(chances, rel=1e-12)
    assert chances[0] == pytest.approx(positive.mean())
    for k in (1, 5, 10, 20):
        found = expected_ndcg(np.full((30, 12), value, np.float32), positive, k).mean()
        assert found == pytest.approx(chance_of_ndcg(positive.sum(1), 12, k), rel=1e-12)


def test_a_score_that_is_no_number_is_never_best() -> None:
    scores = np.array([[np.nan, 0.1, 0.2], [0.5, np.nan, np.nan]])
    positive = np.array([[True, False, False], [True, False, False]])
    assert expected_hits(scores, positive, (1, 2, 3)).tolist() == [[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]]
    assert expected_ndcg(scores, positive, 3) == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize("k", [1, 2, 5, 9, 20])
def test_chance_is_what_random_scores_give(k: int) -> None:
    rng = np.random.default_rng(k)
    positives = np.array([1, 2, 5])
    positive = np.arange(9) < positives[:, None]
    trials = [expected_hits(rng.random((3, 9)), positive, (k,)).mean() for _ in range(4000)]
    # 12,000 draws: a standard deviation is 0.005 at most.
    assert chance_of_hit(positives, 9, k) == pytest.approx(np.mean(trials), abs=0.02)
    trials = [expected_ndcg(rng.random((3, 9)), positive, k).mean() for _ in range(4000)]
    assert chance_of_ndcg(positives, 9, k) == pytest.approx(np.mean(trials), abs=0.02)


def test_chance_in_closed_form() -> None:
    assert chance_of_hit(np.array([1]), 10, 1) == pytest.approx(0.1)
    assert chance_of_hit(np.array([1, 1]), 10, 5) == pytest.approx(0.5)
    # 1 - C(8, 3) / C(10, 3)
    assert chance_of_hit(np.array([2]), 10, 3) == pytest.approx(1 - 56 / 120)
    assert chance_of_hit(np.array([1]), 4, 5) == 1.0


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
