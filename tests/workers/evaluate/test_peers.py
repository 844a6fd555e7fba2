"""The scores against those of CLIP_benchmark and of sentence-transformers, on random rankings without ties.

They break ties by the order of the data; ours is held to all orders of ties in test_ranking.py. (CLIP_benchmark's
`accuracy` fails with NumPy 2.4; accuracies are held to scikit-learn there.)
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.benchmarks.peers import INSTALL, clip_benchmark_retrieval, installed, sentence_transformers_evaluation
from tests.ranks import run_ranks
from workers.evaluate.ranking import Places, hits, recall
from workers.evaluate.retrieval import measures, summary

pytestmark = pytest.mark.skipif(not installed(), reason=INSTALL)


def judged() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Scores of 30 queries and 150 candidates, some 15 of which are positives."""
    rng = np.random.default_rng(0)
    scores = (np.argsort(rng.random((30, 150)), 1) / 150).astype(np.float32)
    return scores, rng.random((30, 150)) < 0.1


def of_sentence_transformers() -> dict[str, dict[int, float]]:
    """In a process of its own."""
    scores, positive = judged()
    corpus = {f"d{c}": "" for c in range(150)}
    relevant = {f"q{q}": {f"d{c}" for c in np.flatnonzero(row)} for q, row in enumerate(positive)}
    evaluator = sentence_transformers_evaluation().InformationRetrievalEvaluator(
        dict.fromkeys(relevant, ""), corpus, relevant
    )
    found = [[{"corpus_id": f"d{c}", "score": float(score)} for c, score in enumerate(row)] for row in scores]
    measured: dict[str, dict[int, float]] = evaluator.compute_metrics(found)
    return measured


def test_rankings_are_sentence_transformers() -> None:
    scores, positive = judged()
    (theirs,) = run_ranks(of_sentence_transformers, 1)
    expected = {"nDCG@10": theirs["ndcg@k"][10], "MRR@10": theirs["mrr@k"][10], "MAP@100": theirs["map@k"][100]}
    for k in (1, 5, 10):
        expected |= {f"R@{k}": theirs["accuracy@k"][k], f"recall@{k}": theirs["recall@k"][k]}
    found = summary(measures(Places.of(scores, positive)))
    found.pop("median_rank")  # which they have not
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recalls_are_clip_benchmarks(k: int) -> None:
    scores, positive = judged()
    theirs = clip_benchmark_retrieval().recall_at_k(torch.from_numpy(scores), torch.from_numpy(positive), k)
    places = Places.of(scores, positive)
    assert recall(places, (k,))[:, 0] == pytest.approx(theirs.numpy(), abs=1e-6)
    # As it reports them: the share of queries with a positive among the best k.
    assert hits(places, (k,))[:, 0] == pytest.approx((theirs > 0).float().numpy())
