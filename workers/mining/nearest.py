"""Exact search for the nearest candidates, block by block.

Letters: Q queries, C candidates of a block, d width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.evaluate.search import TopK, merge, top_k


@dataclass(frozen=True)
class Block:
    """A part of the candidates."""

    numbers: NDArray[np.int64]
    """(C,), each candidate in one block only."""
    vectors: NDArray[Any]
    """(C, d), L2-normalised."""


def nearest(queries: NDArray[np.float32], blocks: Iterable[Block], k: int) -> TopK:
    """The k candidates of the largest cosine with each of the queries (Q, d), the best first, of equal ones the smaller
    number; as `workers.evaluate.search.top_k`, with the candidates' numbers for indexes. Blocks may come in any order.
    """
    best = TopK(np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64))
    for block in blocks:
        # In the order of their numbers, so that of equal ones `top_k` keeps the smaller.
        order = np.argsort(block.numbers)
        found = top_k(queries, block.vectors[order], k)
        numbers = np.append(block.numbers[order], -1)[found.indexes]  # index -1: nothing was found
        best = merge([best, TopK(found.scores, numbers)], k)
    return best


def scores_of_pairs(queries: NDArray[np.float32], documents: NDArray[np.float32]) -> NDArray[np.float32]:
    """(Q,): cosine of each of (Q, d) with its own of (Q, d), as exactly as the search has it."""
    products = np.sum(queries.astype(np.float64) * documents.astype(np.float64), 1)
    scores: NDArray[np.float32] = products.astype(np.float32)
    return scores
