"""Which candidates answer which queries, and measures in chunks."""

from __future__ import annotations

import numpy as np
import pytest

from workers.evaluate import relevance as relevance_module
from workers.evaluate.relevance import Relevance, measured, rows_at_a_time


def test_pairs_in_any_order_with_repeats() -> None:
    found = Relevance.of([(2, 0), (0, 1), (2, 3), (0, 1), (1, 3)], 3, 4)
    assert found.mask(0, 3).astype(int).tolist() == [[0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 1]]
    assert found.mask(1, 2).astype(int).tolist() == [[0, 0, 0, 1]]
    assert found.positives.tolist() == [1, 1, 2]
    turned = found.turned()
    assert (turned.mask(0, 4) == found.mask(0, 3).T).all()
    assert turned.positives.tolist() == [1, 1, 0, 2]


def test_no_pairs() -> None:
    assert not Relevance.of([], 2, 3).mask(0, 2).any()


@pytest.mark.parametrize("chunk", [1, 4 * 7 * 3, 1 << 20])
def test_chunks_change_nothing_and_are_small(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(relevance_module, "CHUNK_BYTES", chunk)
    rng = np.random.default_rng(0)
    queries, candidates = (rng.standard_normal((n, 5)).astype(np.float32) for n in (10, 7))
    relevance = Relevance.of([(q, q % 7) for q in range(10)], 10, 7)
    seen = []

    def best_is_positive(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
        assert scores.shape == positive.shape
        seen.append(scores.nbytes)
        return positive[np.arange(len(scores)), scores.argmax(1)].astype(np.float64)

    found = measured(queries, candidates, relevance, best_is_positive)
    assert found.tolist() == ((queries @ candidates.T).argmax(1) == np.arange(10) % 7).tolist()
    assert max(seen) <= max(chunk, 4 * 7)
    assert rows_at_a_time(7) == max(1, chunk // 28)
