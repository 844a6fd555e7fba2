"""Retrieval between images and texts, in both directions.

Samples with equal texts are positives of each other: each text stands once among the candidates, and a
text's images are all its positives, as are all texts of an image that has several. `R@k` is the share of
queries with a positive among the k best (hit@k, as in CLIP's tables), ties as the mean over their orders.
"""

from __future__ import annotations

import numpy as np

from jobspecs.columns import Text
from jobspecs.errors import DataError
from jobspecs.evaluation import Retrieval
from workers.data.row_maker import texts_of
from workers.evaluate.encode import Encoder
from workers.evaluate.ranking import chance_of_hit, expected_hits
from workers.evaluate.result import Scores

KS = (1, 5, 10)
_QUERIES_AT_A_TIME = 512


def retrieval(spec: Retrieval, encoder: Encoder) -> Scores:
    """Scores `image_to_text_R@k`, `text_to_image_R@k` for k = 1, 5, 10, and their `mean_R@1` (main).

    Raises DataError: a text that can't be read, or fewer than two texts.
    """
    images = encoder.images(spec.data.urls, encoder.text.column, spec.batch)
    texts = _texts(spec, encoder.text, images.column)
    distinct = sorted({text for of_image in texts for text in of_image})
    if len(distinct) < 2:
        raise DataError(f"evaluation {spec.name!r} needs two texts at least, found {len(distinct)}.")
    number = {text: i for i, text in enumerate(distinct)}
    belongs = np.zeros((len(texts), len(distinct)), np.bool_)  # (images, texts)
    for image, of_image in enumerate(texts):
        belongs[image, [number[text] for text in of_image]] = True
    features = encoder.texts(distinct, spec.batch)

    image_hits = _mean_hits(images.features, features, belongs)
    text_hits = _mean_hits(features, images.features, belongs.T)
    chance_image = chance_of_hit(belongs.sum(1), len(distinct), 1)
    chance_text = chance_of_hit(belongs.sum(0), len(texts), 1)
    scores = {f"image_to_text_R@{k}": float(hit) for k, hit in zip(KS, image_hits, strict=True)}
    scores |= {f"text_to_image_R@{k}": float(hit) for k, hit in zip(KS, text_hits, strict=True)}
    scores["mean_R@1"] = (scores["image_to_text_R@1"] + scores["text_to_image_R@1"]) / 2
    return Scores("mean_R@1", scores, len(texts), images.skipped, (chance_image + chance_text) / 2)


def _texts(spec: Retrieval, section: Text, column: list[bytes]) -> list[list[str]]:
    """The texts of each image: one, or all that a field lists."""
    found = []
    for content in column:
        try:
            text = content.decode("utf-8")
            found.append([text] if section.field is None else texts_of(text, section.field))
        except ValueError as error:
            what = "not UTF-8" if section.field is None else f"no text or list of texts in the field {section.field!r}"
            raise DataError(f"evaluation {spec.name!r}: a .{section.column} is {what}.") from error
        if not found[-1]:
            raise DataError(
                f"evaluation {spec.name!r}: a .{section.column} has no text in the field {section.field!r}."
            )
    return found


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
