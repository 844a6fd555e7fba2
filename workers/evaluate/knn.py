"""Images classified by their nearest training images (Wu et al. 2018, §3.4; Caron et al. 2021, appendix F.1).

Neighbour i votes for its class with exp(cosine / temperature). Where several training images are equally near and
only some of them can be among the k, each votes with its share of the places that are left: no order of the data
shows in the score. A model that gives all images one feature then names the most frequent class, which is the
chance level. In chunks of the images to be scored: memory does not grow with their number.

n training images, m others, d width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jobspecs.errors import DataError
from jobspecs.evaluation import Knn
from workers.evaluate.approximate import approximate_top_k, check_installed
from workers.evaluate.classification import LabelledFeatures, labelled_features, scored_classes
from workers.evaluate.encode import Encoder
from workers.evaluate.ranking import ROUNDING
from workers.evaluate.relevance import rows_at_a_time
from workers.evaluate.result import Scores
from workers.evaluate.search import MARGIN


def knn(spec: Knn, encoder: Encoder) -> Scores:
    """Scores `acc@1` (main), `acc@5` where there are more than 5 classes, and `mean_per_class_recall`.

    Raises DataError: fewer training images than `k`, and as `labelled_features`; UsageError: no FAISS for approximate
    search.
    """
    approximate = spec.search == "approximate"
    if approximate:
        check_installed(spec.name)
    found = labelled_features(spec, encoder)
    if spec.k > len(found.train):
        raise DataError(f"evaluation {spec.name!r}: k is {spec.k}, and `train` has {len(found.train)} images. Lower k.")
    return scored_classes(spec, encoder, found, votes(found, spec.k, spec.temperature, approximate=approximate))


def votes(found: LabelledFeatures, k: int, temperature: float, *, approximate: bool = False) -> NDArray[np.float64]:
    """(m, classes): the votes of the k nearest training images, as shares of all votes."""
    train, test = _directions(found.train), _directions(found.test)
    if approximate:
        # Some more than k, among which those that tie with the k-th share its place.
        nearest = approximate_top_k(test, train, min(2 * k + MARGIN, len(train)))
        return _votes(nearest.scores, found.train_labels[nearest.indexes], found.classes, k, temperature)
    rows = rows_at_a_time(len(train))
    parts = [
        _votes(test[start : start + rows] @ train.T, found.train_labels, found.classes, k, temperature)
        for start in range(0, len(test), rows)
    ]
    return np.concatenate(parts)


def _votes(
    cosines: NDArray[np.float32], labels: NDArray[np.int64], classes: int, k: int, temperature: float
) -> NDArray[np.float64]:
    """(q, n) -> (q, classes). labels: of the n, or of (q, n) each."""
    n = cosines.shape[1]
    last = np.partition(cosines, n - k, axis=1)[:, n - k, None]  # the k-th largest
    ahead = cosines - last
    above, level = ahead > ROUNDING, np.abs(ahead) <= ROUNDING
    share = (k - above.sum(1)) / level.sum(1)
    row, column = np.nonzero(above | level)
    nearest = cosines.max(1)
    weight = np.exp((cosines[row, column].astype(np.float64) - nearest[row]) / temperature)
    weight *= np.where(above[row, column], 1.0, share[row])
    counted = np.bincount(
        row * classes + np.broadcast_to(labels, cosines.shape)[row, column], weight, minlength=len(cosines) * classes
    )
    shares = counted.astype(np.float64).reshape(len(cosines), classes)
    shares /= shares.sum(1, keepdims=True)
    return shares


def _directions(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """On the unit sphere; zeros stay."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    directions = features / np.where(lengths > 0, lengths, 1)
    return directions.astype(np.float32, copy=False)
