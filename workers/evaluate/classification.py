"""Labels of samples, and how often the best scored class is the right one.

What zero-shot classification, nearest neighbours and linear probes have in common.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobspecs.errors import DataError
from jobspecs.evaluation import Knn, LinearProbe, ZeroShot
from workers.data.filters import field_of
from workers.evaluate import bootstrap
from workers.evaluate.encode import Encoder
from workers.evaluate.ranking import Places, hits
from workers.evaluate.result import Measured, Scores, scored

Label = int | str


@dataclass(frozen=True)
class LabelledFeatures:
    """What a classifier learns from and what it is scored on. n training images, m others, d width."""

    train: NDArray[np.float32]
    """(n, d)."""
    train_labels: NDArray[np.int64]
    """(n,): numbers of the classes that the training images have, in the order of their labels."""
    test: NDArray[np.float32]
    """(m, d)."""
    test_labels: NDArray[np.int64]
    """(m,)."""
    skipped: int
    """Samples of both that could not be used."""
    fingerprint: str = ""
    """Of both data sets."""

    @property
    def classes(self) -> int:
        """Classes that there are."""
        return int(self.train_labels.max()) + 1


def labelled_features(spec: Knn | LinearProbe, encoder: Encoder) -> LabelledFeatures:
    """The images of `spec.train` and `spec.data`, encoded; features that are no numbers are 0.

    Raises DataError: not one image, fewer than two classes, a label that is missing, or one to be scored that
    no training image has.
    """
    train, test = (
        encoder.images(data.urls, spec.label_column, spec.batch, spec.features) for data in (spec.train, spec.data)
    )
    for images, data in ((train, spec.train), (test, spec.data)):
        if not images.column:
            raise DataError(f"evaluation {spec.name!r}: not one image of {', '.join(data.urls)} could be used.")
    labels, others = ([_class(spec, content) for content in images.column] for images in (train, test))
    number = {
        label: i for i, label in enumerate(sorted(set(labels), key=lambda label: (isinstance(label, str), label)))
    }
    if len(number) < 2:
        raise DataError(
            f"evaluation {spec.name!r}: all images of {', '.join(spec.train.urls)} have the label "
            f"{labels[0]!r}. A classifier needs two classes at least: check label_column and label_field."
        )
    for label in others:
        if label not in number:
            raise DataError(
                f"evaluation {spec.name!r}: no image of {', '.join(spec.train.urls)} has the label {label!r}, which "
                f"one of {', '.join(spec.data.urls)} has. Name training data with all classes in `train`."
            )
    return LabelledFeatures(
        train=np.nan_to_num(train.features, posinf=0, neginf=0),
        train_labels=np.array([number[label] for label in labels]),
        test=np.nan_to_num(test.features, posinf=0, neginf=0),
        test_labels=np.array([number[label] for label in others]),
        skipped=train.skipped + test.skipped,
        fingerprint=hashlib.sha256(f"{train.fingerprint}\n{test.fingerprint}".encode()).hexdigest(),
    )


def label_of(spec: ZeroShot | Knn | LinearProbe, column: bytes, what: str, field: str) -> Any:
    """The label in a `field` of the JSON member `column`. Raises DataError: there is none; `what` it should be."""
    try:
        label = field_of(json.loads(column), field)
    except (ValueError, RecursionError):
        label = None
    if label is None:
        raise DataError(
            f"evaluation {spec.name!r}: a sample's {spec.label_column} has no field {field!r}. "
            f"Set label_column and label_field to where {what} stands."
        )
    return label


def scored_classes(
    spec: Knn | LinearProbe, encoder: Encoder, found: LabelledFeatures, scores: NDArray[np.floating]
) -> Scores:
    """The outcome of a classifier's `scores` (m, classes). Chance is the accuracy of who knows the training labels
    alone and names the most frequent; ties by turns."""
    return scored(
        spec,
        encoder.data,
        measured_accuracies(scores, found.test_labels, np.bincount(found.train_labels).astype(np.float64)),
        groups=(len(found.test),),
        samples=len(found.test),
        skipped=found.skipped,
        data_fingerprint=found.fingerprint,
    )


def _class(spec: Knn | LinearProbe, column: bytes) -> Label:
    label = label_of(spec, column, "the label of its class", spec.label_field)
    if isinstance(label, bool) or not isinstance(label, int | str):
        raise DataError(f"evaluation {spec.name!r}: the label {label!r} is neither an integer nor a text.")
    return label


def accuracies(scores: NDArray[np.floating], labels: NDArray[np.int64]) -> dict[str, float]:
    """`acc@1`, `acc@5` where there are more than 5 classes, and `mean_per_class_recall`; ties as the mean over
    their orders. scores: (n, classes). labels: (n,), each a column of it. Classes without an image have no recall."""
    return _values(_statistics(_hits(scores, labels), labels), len(labels))


def measured_accuracies(
    scores: NDArray[np.floating], labels: NDArray[np.int64], prior: NDArray[np.floating]
) -> dict[str, Measured]:
    """The same, to be resampled. prior: (classes,) scores by who has not seen the image, which are chance."""
    classes = np.arange(len(prior))
    by_chance = _hits(np.broadcast_to(prior, (len(prior), len(prior))), classes)[labels]
    chances = _values(_statistics(by_chance, labels), len(labels))
    found = _statistics(_hits(scores, labels), labels)
    return {name: Measured(statistic, chances[name]) for name, statistic in found.items()}


def _hits(scores: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, 1 or 2): whether the label is the best, and among the best 5."""
    classes = scores.shape[1]
    ks = (1, 5) if classes > 5 else (1,)
    return hits(Places.of(scores, np.arange(classes) == labels[:, None]), ks)


def _statistics(found: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, bootstrap.Statistic]:
    named = {f"acc@{k}": bootstrap.mean_of(found[:, i]) for i, k in enumerate((1, 5)[: found.shape[1]])}
    return named | {"mean_per_class_recall": bootstrap.mean_over_classes(found[:, 0], labels)}


def _values(statistics: dict[str, bootstrap.Statistic], samples: int) -> dict[str, float]:
    return {name: bootstrap.value(statistic, samples) for name, statistic in statistics.items()}
