"""Retrieval between images and texts in both directions, or of documents for queries.

Samples with equal texts are positives of each other: each text stands once among the candidates, and a
text's images are all its positives, as are all texts of an image that has several. Queries and documents
likewise: equal ones are one. `R@k` is the share of queries with a positive among the k best (hit@k, as in
CLIP's tables). Every score is the mean over the orders of ties.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from jobspecs.columns import Text
from jobspecs.errors import DataError
from jobspecs.evaluation import Retrieval
from workers.data.row_maker import texts_of
from workers.evaluate.encode import Encoder
from workers.evaluate.ranking import (
    chance_of_hit,
    chance_of_ndcg,
    expected_hits,
    expected_ndcg,
    reciprocal_rank_of_hits,
)
from workers.evaluate.relevance import Relevance, measured
from workers.evaluate.result import Scores

KS = (1, 5, 10)
CUTOFF = 10


def retrieval(spec: Retrieval, encoder: Encoder) -> Scores:
    """Of a model of queries and documents, `nDCG@10` (main), `MRR@10` and `R@k` for k = 1, 5, 10; of images and
    texts, `image_to_text_R@k`, `text_to_image_R@k` and their `mean_R@1` (main).

    Raises DataError: a text that can't be read, or fewer than two texts.
    """
    return _documents(spec, encoder) if "query" in encoder.data.texts else _images(spec, encoder)


def _images(spec: Retrieval, encoder: Encoder) -> Scores:
    section = encoder.data.texts["text"]
    images = encoder.images(spec.data.urls, section.column, spec.batch)
    texts = [_texts(spec, section, content) for content in images.column]
    number = _numbered(spec, itertools.chain(*texts))
    pairs = ((image, number[text]) for image, of_image in enumerate(texts) for text in of_image)
    of_images = Relevance.of(pairs, len(texts), len(number))
    of_texts = of_images.turned()
    features = encoder.texts(list(number), spec.batch)

    def hits(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> NDArray[np.float64]:
        return expected_hits(scores, positive, KS)

    image_hits = measured(images.features, features, of_images, hits).mean(0)
    text_hits = measured(features, images.features, of_texts, hits).mean(0)
    chances = [chance_of_hit(each.positives, each.candidates, 1) for each in (of_images, of_texts)]
    scores = {f"image_to_text_R@{k}": float(hit) for k, hit in zip(KS, image_hits, strict=True)}
    scores |= {f"text_to_image_R@{k}": float(hit) for k, hit in zip(KS, text_hits, strict=True)}
    scores["mean_R@1"] = (scores["image_to_text_R@1"] + scores["text_to_image_R@1"]) / 2
    return Scores("mean_R@1", scores, len(texts), images.skipped, sum(chances) / 2)


def _documents(spec: Retrieval, encoder: Encoder) -> Scores:
    sections = [encoder.data.texts[side] for side in ("query", "document")]
    members = encoder.members(spec.data.urls, tuple(section.column for section in sections))
    samples = [
        tuple(_texts(spec, section, content) for section, content in zip(sections, contents, strict=True))
        for contents in members.columns
    ]
    queries = _numbered(spec, itertools.chain(*(asked for asked, _ in samples)), fewest=1)
    documents = _numbered(spec, itertools.chain(*(answers for _, answers in samples)))
    pairs = (
        (queries[query], documents[document])
        for asked, answers in samples
        for query, document in itertools.product(asked, answers)
    )
    relevance = Relevance.of(pairs, len(queries), len(documents))
    scores = ranked_documents(
        encoder.texts(list(queries), spec.batch, "query"),
        encoder.texts(list(documents), spec.batch, "document"),
        relevance,
    )
    chance = chance_of_ndcg(relevance.positives, relevance.candidates, CUTOFF)
    return Scores(f"nDCG@{CUTOFF}", scores, len(samples), members.skipped, chance)


def ranked_documents(
    queries: NDArray[np.float32], documents: NDArray[np.float32], relevance: Relevance
) -> dict[str, float]:
    """The scores of documents ranked by the cosines of normalised features, (Q, d) and (C, d)."""
    return summary(measured(queries, documents, relevance, document_measures))


def document_measures(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(q, C) each -> (q, 1 + CUTOFF): nDCG, hit@1 … hit@CUTOFF of each query."""
    hits = expected_hits(scores, positive, tuple(range(1, CUTOFF + 1)))
    return np.column_stack([expected_ndcg(scores, positive, CUTOFF), hits])


def summary(measures: NDArray[np.float64]) -> dict[str, float]:
    """The scores of what `document_measures` found, (Q, 1 + CUTOFF)."""
    hits = measures[:, 1:]
    scores = {f"nDCG@{CUTOFF}": measures[:, 0].mean(), f"MRR@{CUTOFF}": reciprocal_rank_of_hits(hits).mean()}
    scores |= {f"R@{k}": hits[:, k - 1].mean() for k in KS}
    return {name: float(score) for name, score in scores.items()}


def _numbered(spec: Retrieval, texts: Iterable[str], fewest: int = 2) -> dict[str, int]:
    """Each distinct text with its number, in the order of the texts."""
    distinct = sorted(set(texts))
    if len(distinct) < fewest:
        raise DataError(f"evaluation {spec.name!r} needs two texts at least, found {len(distinct)}.")
    return {text: number for number, text in enumerate(distinct)}


def _texts(spec: Retrieval, section: Text, content: bytes) -> list[str]:
    """The texts of a sample: one, or all that a field lists."""
    try:
        text = content.decode("utf-8")
        found = [text] if section.field is None else texts_of(text, section.field)
    except ValueError as error:
        what = "not UTF-8" if section.field is None else f"no text or list of texts in the field {section.field!r}"
        raise DataError(f"evaluation {spec.name!r}: a .{section.column} is {what}.") from error
    if not found:
        raise DataError(f"evaluation {spec.name!r}: a .{section.column} has no text in the field {section.field!r}.")
    return found
