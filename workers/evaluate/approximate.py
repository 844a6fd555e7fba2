"""Approximate search by FAISS, for corpora in which exact search takes too long: the optional extra `faiss`.

An inverted file (`IndexIVFFlat`): the candidates are clustered into 4·√C lists, and a query is compared with those in
the 16th part of the lists whose centres are nearest. Scores are exact; candidates of other lists are not found. A query
whose lists hold fewer than k is searched exactly. Below some 8,000 candidates there are too few to cluster that finely.

It pays where there are many queries: clustering and filling the lists takes as many products as searching 6,400 + 4·√C
queries exactly, 10,400 of a million candidates.

Memory beyond the arguments: a copy of the candidates in fp32, and 12 bytes for each place that is found.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jobspecs.errors import UsageError
from workers.evaluate.search import TopK, top_k

_ROWS_OF_LIST = 40
"""Candidates for each list that the clusters are made of; FAISS warns below 39."""
_FEWEST_PROBES = 8
"""Lists that a query looks at, at least."""


def check_installed(evaluation: str) -> None:
    """Raises UsageError: there is no FAISS, and the evaluation of that name asks for approximate search."""
    try:
        import faiss  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"evaluation {evaluation!r}: search is approximate, and FAISS, which does it, can't be imported here "
            f"({error}). Install Tandem from its sources with the extra on all nodes (pip install '.[faiss]'), or set "
            "search: exact"
        ) from error


def approximate_top_k(queries: NDArray[np.float32], candidates: NDArray[np.float32], k: int) -> TopK:
    """Of the candidates (C, d) k good ones for each of the queries (Q, d), by their products; C >= k. `check_installed`
    passed."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    lists = max(1, min(int(4 * math.sqrt(len(candidates))), len(candidates) // _ROWS_OF_LIST))
    width = candidates.shape[1]
    index: Any = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid = _ROWS_OF_LIST
    rows = np.ascontiguousarray(candidates, np.float32)
    index.train(rows)
    index.add(rows)
    index.nprobe = min(lists, max(_FEWEST_PROBES, lists // 16))
    scores, indexes = index.search(np.ascontiguousarray(queries, np.float32), k)
    short = np.flatnonzero((indexes < 0).any(1))
    if len(short):
        exact = top_k(queries[short], candidates, k)
        scores[short], indexes[short] = exact.scores, exact.indexes
    return TopK(scores, indexes)
