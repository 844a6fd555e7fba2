"""Approximate search by FAISS, where it is installed beside the environment; and what is said where it is not."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from jobspecs.data import Data, Source
from jobspecs.errors import UsageError
from jobspecs.evaluation import Knn, Retrieval
from jobspecs.scores import FOUND, RANKED
from tests.benchmarks.test_search_benchmark import FOLDER
from workers.evaluate.approximate import approximate_top_k
from workers.evaluate.classification import LabelledFeatures
from workers.evaluate.encode import Encoder
from workers.evaluate.knn import knn, votes
from workers.evaluate.ranking import Places
from workers.evaluate.relevance import Relevance, measured, measured_found
from workers.evaluate.retrieval import measures, ranked
from workers.evaluate.retrieval import retrieval as retrieve
from workers.evaluate.search import TopK, top_k

Features = NDArray[np.float32]


@pytest.fixture
def faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    if not FOLDER.is_dir():
        pytest.skip("FAISS is not installed: `make peers` does it")
    monkeypatch.syspath_prepend(str(FOLDER))


def pairs(count: int, seed: int = 0) -> tuple[Features, Features, Relevance]:
    """Queries near their documents, which lie in 30 clusters."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((30, 24))
    documents = centres[rng.integers(30, size=count)] + 0.4 * rng.standard_normal((count, 24))
    queries = documents + 0.3 * rng.standard_normal((count, 24))
    both = [(x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (queries, documents)]
    return both[0], both[1], Relevance.of(((q, q) for q in range(count)), count, count)


def places(scores: Features, positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    return measures(Places.of(scores, positive))


@pytest.mark.usefixtures("faiss")
def test_most_of_the_nearest_are_found_and_always_the_same() -> None:
    queries, documents, _ = pairs(9000)
    exact, found = top_k(queries[:300], documents, 10), approximate_top_k(queries[:300], documents, 10)
    shared = [len(set(a) & set(b)) for a, b in zip(exact.indexes.tolist(), found.indexes.tolist(), strict=True)]
    assert 0.8 < np.mean(shared) / 10 < 1
    assert (np.diff(found.scores, axis=1) <= 0).all()
    products = np.take_along_axis(queries[:300] @ documents.T, found.indexes, 1)
    np.testing.assert_allclose(found.scores, products, atol=1e-5)
    assert (approximate_top_k(queries[:300], documents, 10).indexes == found.indexes).all()


@pytest.mark.usefixtures("faiss")
def test_a_query_whose_lists_hold_too_few_is_searched_exactly() -> None:
    queries, documents, _ = pairs(9000)
    found, exact = approximate_top_k(queries[:5], documents, 4000), top_k(queries[:5], documents, 4000)
    np.testing.assert_allclose(found.scores, exact.scores, atol=1e-5)


@pytest.mark.usefixtures("faiss")
def test_scores_are_about_those_of_exact_search() -> None:
    queries, documents, relevance = pairs(3000)
    exact = ranked(queries, documents, relevance)
    found = ranked(queries, documents, relevance, approximate=True)
    assert tuple(exact) == RANKED
    assert tuple(found) == FOUND
    ones = np.ones((1, 3000))
    for name in FOUND:
        assert found[name].chance == exact[name].chance
        assert found[name].statistic(ones)[0] == pytest.approx(exact[name].statistic(ones)[0], abs=0.02)


@pytest.mark.parametrize("chunk", [1, 1 << 25])
def test_what_was_found_is_measured_as_all_candidates_are(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("workers.evaluate.relevance.CHUNK_BYTES", chunk)
    queries, documents, _ = pairs(400)
    several = Relevance.of(((q, (q + 7 * i) % 400) for q in range(400) for i in range(q % 4 + 1)), 400, 400)
    expected = measured(queries, documents, several, places)[:, : len(FOUND)]
    found = measured_found(top_k(queries, documents, 128), several, places)[:, : len(FOUND)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_positive_that_was_not_found_scores_nothing() -> None:
    """By hand: the first query found its positive in the second place; the second found none of its two."""
    found = TopK(np.array([[0.9, 0.5], [0.8, -np.inf]], np.float32), np.array([[3, 1], [2, -1]]))
    relevance = Relevance.of([(0, 1), (1, 0), (1, 4)], 2, 5)

    def lowest_above(scores: Features, positive: NDArray[np.bool_]) -> NDArray[np.float64]:
        judged = Places.of(scores, positive)
        return np.array([[judged.above[judged.query == q].min(), (judged.query == q).sum()] for q in range(2)], float)

    assert measured_found(found, relevance, lowest_above).tolist() == [[1, 1], [1, 2]]


@pytest.mark.usefixtures("faiss")
def test_neighbours_vote_as_by_exact_search() -> None:
    train, test, _ = pairs(600)
    labels = np.arange(600) % 7
    found = LabelledFeatures(train, labels, test, labels, skipped=0)
    np.testing.assert_allclose(votes(found, 9, 0.07, approximate=True), votes(found, 9, 0.07), atol=1e-4)


def test_without_faiss_the_extra_is_named_before_anything_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    data = Data(sources=[Source(name="a", urls=["a.tar"])])
    encoder = Encoder.__new__(Encoder)  # asked for nothing
    encoder.data = data
    given = {"name": "near", "search": "approximate", "data": {"urls": ["a.tar"]}}
    expected = (
        r"evaluation 'near': search is approximate, and FAISS.*from its sources.*pip install '\.\[faiss\]'\), "
        "or set search: exact"
    )
    with pytest.raises(UsageError, match=expected):
        retrieve(Retrieval.model_validate({"kind": "retrieval", **given}), encoder)
    with pytest.raises(UsageError, match=expected):
        knn(Knn.model_validate({"kind": "knn", "train": {"urls": ["a.tar"]}, **given}), encoder)
