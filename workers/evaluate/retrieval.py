"""Retrieval between images and texts, in both directions.

Samples with equal texts are positives of each other: each text stands once among the candidates, and a
text's images are all its positives. `R@k` is the share of queries with a positive among the k best
(hit@k, as in CLIP's tables), ties as the mean over their orders.
"""

from __future__ import annotations

import numpy as np

from jobspecs.errors import DataError
from jobspecs.evaluation import Retrieval
from workers.evaluate.encode import Encoder
from workers.evaluate.ranking import chance_of_hit, expected_hits
from workers.evaluate.result import Scores

KS = (1, 5, 10)
_QUERIES_AT_A_TIME = 512


def retrieval(spec: Retrieval, encoder: Encoder) -> Scores:
    """Scores `image_to_text_R@k`, `text_to_image_R@k` for k = 1, 5, 10, and their `mean_R@1` (main).

    Raises DataError: a text that is not UTF-8, or fewer than two texts.
    """
    column = encoder.spec.data.text.column
    images = encoder.images(spec.data.urls, column, spec.batch)
    try:
        texts = [text.decode("utf-8") for text in images.column]
    except UnicodeDecodeError as error:
        raise DataError(f"evaluation {spec.name!r}: a text in .{column} is not UTF-8.") from error
    distinct = sorted(set(texts))
    if len(distinct) < 2:
        raise DataError(f"evaluation {spec.name!r} needs two texts at least, found {len(distinct)}.")
    number = {text: i for i, text in enumerate(distinct)}
    text_of_image = np.array([number[text] for text in texts])
    features = encoder.texts(distinct, spec.batch)

    image_hits = _mean_hits(images.features, features, text_of_image[:, None] == np.arange(len(distinct)))
    text_hits = _mean_hits(features, images.features, np.arange(len(distinct))[:, None] == text_of_image)
    images_of_text = np.bincount(text_of_image)
    chance_image = chance_of_hit(np.ones(len(texts), np.int64), len(distinct), 1)
    chance_text = chance_of_hit(images_of_text, len(texts), 1)
    scores = {f"image_to_text_R@{k}": float(hit) for k, hit in zip(KS, image_hits, strict=True)}
    scores |= {f"text_to_image_R@{k}": float(hit) for k, hit in zip(KS, text_hits, strict=True)}
    scores["mean_R@1"] = (scores["image_to_text_R@1"] + scores["text_to_image_R@1"]) / 2
    return Scores("mean_R@1", scores, len(texts), images.skipped, (chance_image + chance_text) / 2)


def _mean_hits(
    queries: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    candidates: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    positive: np.ndarray[tuple[int, int], np.dtype[np.bool_]],
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Mean hit@k over the queries, for each of KS; the similarities are held for a chunk of queries."""
    hits = [
        expected_hits(queries[rows] @ candidates.T, positive[rows], KS)
        for start in range(0, len(queries), _QUERIES_AT_A_TIME)
        for rows in [slice(start, start + _QUERIES_AT_A_TIME)]
    ]
    mean: np.ndarray[tuple[int], np.dtype[np.float64]] = np.concatenate(hits).mean(0)
    return mean
