"""Exact search against a full sort in float64; tiles, parts and copies change nothing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from workers.evaluate import search
from workers.evaluate.search import TopK, merge, top_k


def unit(rows: int, seed: int, width: int = 16) -> NDArray[np.float32]:
    found = np.random.default_rng(seed).standard_normal((rows, width))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def sorted_in_full(queries: NDArray[np.float32], candidates: NDArray[np.float32], k: int) -> TopK:
    scores = (queries.astype(np.float64) @ candidates.astype(np.float64).T).astype(np.float32)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return TopK(np.take_along_axis(scores, order, 1), order)


def same(found: TopK, expected: TopK) -> None:
    assert found.indexes.tolist() == expected.indexes.tolist()
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)
    assert (found.scores.dtype, found.indexes.dtype) == (np.float32, np.int64)


QUERIES, CANDIDATES = unit(50, 0), unit(300, 1)
CANDIDATES[200:] = CANDIDATES[100:200]  # copies: the first of two goes first


@pytest.mark.parametrize("tiles", [(1024, 8192), (7, 64), (50, 3)])
@pytest.mark.parametrize("k", [1, 20, 299])
def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch, tiles: tuple[int, int], k: int) -> None:
    monkeypatch.setattr(search, "TILE_QUERIES", tiles[0])
    monkeypatch.setattr(search, "TILE_CANDIDATES", tiles[1])
    monkeypatch.setattr(search, "_RESCORED_BYTES", 1 << 14)
    same(top_k(QUERIES, CANDIDATES, k), sorted_in_full(QUERIES, CANDIDATES, k))


def test_scores_that_rise_with_the_index_and_such_that_are_all_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "TILE_CANDIDATES", 100)
    rising = np.linspace(-1, 1, 1000, dtype=np.float32)[:, None]
    query = np.ones((3, 1), np.float32)
    assert top_k(query, rising, 5).indexes.tolist() == [[999, 998, 997, 996, 995]] * 3
    assert top_k(-query, rising, 2).indexes.tolist() == [[0, 1]] * 3
    assert top_k(query, np.zeros((1000, 1)), 3).indexes.tolist() == [[0, 1, 2]] * 3


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_parts_change_nothing(parts: int) -> None:
    bounds = np.linspace(0, 300, parts + 1).astype(int)
    found = [top_k(QUERIES, CANDIDATES[a:b], 60, first=a) for a, b in pairwise(bounds)]
    same(merge(found[::-1], 60), sorted_in_full(QUERIES, CANDIDATES, 60))


def test_fewer_candidates_than_k_and_scores_that_are_no_numbers() -> None:
    candidates = CANDIDATES[:4].copy()
    candidates[2] = np.nan
    found = top_k(QUERIES, candidates, 6)
    assert (found.indexes[:, 3:] == -1).all()
    assert (found.scores[:, 3:] == -np.inf).all()
    assert (np.sort(found.indexes[:, :3], 1) == [0, 1, 3]).all()
    rest = CANDIDATES[4:]
    together = top_k(QUERIES, np.concatenate([candidates, rest]), 6)
    same(merge([found, top_k(QUERIES, rest, 6, first=4)], 6), together)
    assert (top_k(QUERIES, CANDIDATES[:0], 2).indexes == -1).all()


def test_half_precision_and_files(tmp_path: object) -> None:
    halves = CANDIDATES.astype(np.float16)
    stored = np.memmap(f"{tmp_path}/candidates", np.float16, "w+", shape=halves.shape)
    stored[:] = halves
    read = np.memmap(f"{tmp_path}/candidates", np.float16, "r", shape=halves.shape)
    same(top_k(QUERIES, read, 9), sorted_in_full(QUERIES, halves.astype(np.float32), 9))
