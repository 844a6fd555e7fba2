"""BM25 over documents: the lexical baseline (bm25s, Lucene's variant, k1 1.5, b 0.75).

Words are runs of letters and digits, in lower case, and identifiers are taken apart (`getSequences`, `get_sequences` ->
get, sequences). Languages that set no spaces between words have few of them here: a model serves those better.

Memory: about 8 bytes for each distinct word of each document, and 4 bytes a document while a query is scored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import bm25s
import numpy as np
from numpy.typing import NDArray

from workers.evaluate.search import TopK

_WORD = re.compile(r"[^\W_]+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def words(text: str) -> list[str]:
    """words("textwrap.shortenAll(a_b)") -> ["textwrap", "shorten", "all", "a", "b"]."""
    return _WORD.findall(_HUMP.sub(" ", text).lower())


class Bm25:
    """An index of documents. Survives pickling."""

    def __init__(self, documents: Sequence[str], candidates: NDArray[np.bool_]) -> None:
        """candidates: (n,), which of the n documents can be found; words are counted in all of them."""
        self._candidates = candidates
        self._index = bm25s.BM25()
        self._index.index([words(document) for document in documents], show_progress=False)
        self._known = self._index.vocab_dict.keys() - {""}  # bm25s adds it

    def scores(self, query: str) -> NDArray[np.float32]:
        """(n,): of each document; 0 where it shares no word with the query."""
        found = [word for word in words(query) if word in self._known]
        if not found:
            return np.zeros(len(self._candidates), np.float32)
        scores: NDArray[np.float32] = self._index.get_scores(found)
        return scores

    def nearest(self, query: str, own: int, k: int) -> tuple[TopK, np.float32]:
        """The best k candidates by number, of equal ones the smaller, as (k,); and the score of document `own`.

        A candidate that shares no word with the query is not found.
        """
        scores = self.scores(query)
        there = np.flatnonzero(self._candidates & (scores > 0))
        best = there[np.lexsort((there, -scores[there]))[:k]]
        left = k - len(best)
        found = np.append(scores[best], np.full(left, -np.inf, np.float32))
        return TopK(found, np.append(best, np.full(left, -1))), scores[own]
