"""BM25 on the held-out modules of the demo `stdlib`: the lexical score that text towers are seen beside.

    python -m tests.benchmarks.bm25

Prints nDCG@10, MRR@10 and hit@k of BM25 (bm25s, Lucene's variant, k1 1.5, b 0.75), with words as its own tokenizer
finds them and with identifiers taken apart (`get_sequences`, `getSequences` -> get, sequences), beside chance.
The queries, documents and measures are those of a `retrieval` evaluation of that demo. Seconds on one core.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable, Sequence

import bm25s
import numpy as np
from numpy.typing import NDArray

from workers.data.demo_stdlib import stdlib
from workers.data.demo_tar import TextPair
from workers.evaluate.ranking import Places
from workers.evaluate.relevance import Relevance
from workers.evaluate.retrieval import measures, summary

_WORD = re.compile(r"[a-z0-9]+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def words(text: str) -> list[str]:
    """Words in lower case; an identifier is one."""
    return re.findall(r"\w\w+", text.lower())


def parts(text: str) -> list[str]:
    """Words in lower case; an identifier is several."""
    return _WORD.findall(_HUMP.sub(" ", text).lower())


def scores(queries: Sequence[str], documents: Sequence[str], split: Callable[[str], list[str]]) -> NDArray[np.float32]:
    """(Q, C): BM25 of each document for each query."""
    index = bm25s.BM25()
    index.index([split(document) for document in documents], show_progress=False)
    known = set(index.vocab_dict)
    # A query of unknown words alone scores all documents alike.
    found = [[word for word in split(query) if word in known] for query in queries]
    nothing = np.zeros(len(documents), np.float32)
    return np.stack([index.get_scores(each) if each else nothing for each in found])


def lexical(pairs: Sequence[TextPair], split: Callable[[str], list[str]]) -> dict[str, float]:
    """The scores of a retrieval evaluation, by BM25."""
    relevance, queries, documents = judged(pairs)
    return shown(Places.of(scores(queries, documents, split), relevance.mask(0, len(queries))))


def chance(pairs: Sequence[TextPair]) -> dict[str, float]:
    """The scores of a random order."""
    relevance, _, documents = judged(pairs)
    return shown(Places.at_random(relevance.positives, len(documents)))


def shown(places: Places) -> dict[str, float]:
    """Those of the table."""
    found = summary(measures(places))
    return {name: found[name] for name in ("nDCG@10", "MRR@10", "R@1", "R@5", "R@10")}


def judged(pairs: Sequence[TextPair]) -> tuple[Relevance, list[str], list[str]]:
    """The distinct queries and documents, and which belong together."""
    queries = sorted({pair.query for pair in pairs})
    documents = sorted({pair.document for pair in pairs})
    query_number, document_number = ({text: i for i, text in enumerate(texts)} for texts in (queries, documents))
    found = ((query_number[pair.query], document_number[pair.document]) for pair in pairs)
    return Relevance.of(found, len(queries), len(documents)), queries, documents


def main() -> None:
    """Prints the table, and last one JSON line."""
    pairs = [pair for pair in stdlib(0).splits[1].samples if isinstance(pair, TextPair)]
    rows = {
        "chance": chance(pairs),
        "BM25, words": lexical(pairs, words),
        "BM25, identifiers apart": lexical(pairs, parts),
    }
    documents = judged(pairs)[2]
    print(
        f"Python {platform.python_version()}: {len(pairs):,} queries of held-out modules, {len(documents):,} documents"
    )
    print(f"{'':<24}" + "".join(f"{name:>9}" for name in rows["chance"]))
    for name, row in rows.items():
        print(f"{name:<24}" + "".join(f"{value:>9.3f}" for value in row.values()))
    print(json.dumps({"benchmark": "bm25", "python": platform.python_version(), "scores": rows}))


if __name__ == "__main__":
    main()
