"""Images classified by a linear model on frozen features: multinomial logistic regression with an L2 penalty.

The features are standardised by the training images' mean and deviation. The penalty is chosen on a fifth of the
training images of each class, then the model is fitted to all of them (as in Radford et al. 2021, §3.3, on a
coarser grid). scikit-learn fits it, on the CPU. Same features, same score: nothing is drawn anew.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobspecs.errors import DataError
from jobspecs.evaluation import LinearProbe
from workers.data.keyed import permutation
from workers.evaluate.classification import LabelledFeatures, accuracies, labelled_features, scored_classes
from workers.evaluate.encode import Encoder
from workers.evaluate.result import Scores

INVERSE_PENALTIES = tuple(10.0**exponent for exponent in range(-4, 3))
"""scikit-learn's C: the sum of the samples' losses counts C times against half the squared norm."""
MOST_ITERATIONS = 1000
_HELD_OUT = 5
"""One of so many training images chooses the penalty."""
_CONSTANT = 1e-6
"""A feature that varies by less than this part of its largest value is taken for a constant: what varies is
rounding (2⁻²⁴ of it), which standardising would blow up."""


def linear_probe(spec: LinearProbe, encoder: Encoder) -> Scores:
    """Scores `acc@1` (main), `acc@5` where there are more than 5 classes, and `mean_per_class_recall`.

    Raises DataError: no class with two training images, and as `labelled_features`.
    """
    found = labelled_features(spec, encoder)
    if np.bincount(found.train_labels).max() < 2:
        raise DataError(
            f"evaluation {spec.name!r}: no class has two images in `train`, and one of two chooses the penalty. Name "
            "more training data."
        )
    return scored_classes(spec, encoder, found, probed(found))


def probed(found: LabelledFeatures) -> NDArray[np.float64]:
    """(m, classes): scores of the classes for the images to be scored."""
    train, test = standardised(found.train, found.test)
    chooses = held_out(found.train_labels)
    fitted_on, labels = train[~chooses], found.train_labels
    best, best_accuracy = INVERSE_PENALTIES[0], -1.0
    for penalty in INVERSE_PENALTIES:
        scores = _scores(fitted_on, labels[~chooses], train[chooses], found.classes, penalty)
        accuracy = accuracies(scores, labels[chooses])["acc@1"]
        if accuracy > best_accuracy:  # of equals the stronger penalty
            best, best_accuracy = penalty, accuracy
    return _scores(train, labels, test, found.classes, best)


def standardised(
    train: NDArray[np.float32], test: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both minus the mean of `train` over its standard deviation, feature by feature; constant ones become 0."""
    wide = train.astype(np.float64)
    mean, deviation = wide.mean(0), wide.std(0)
    varies = deviation > _CONSTANT * np.abs(wide).max(0)
    factor = np.where(varies, 1 / np.where(varies, deviation, 1), 0.0)
    return (wide - mean) * factor, (test.astype(np.float64) - mean) * factor


def held_out(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,): a fifth of each class, at least one of a class that has two."""
    chosen = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        (images,) = np.nonzero(labels == label)
        order = permutation(len(images), "linear_probe", int(label))
        chosen[images[order[: max(len(images) // _HELD_OUT, int(len(images) > 1))]]] = True
    return chosen


def _scores(
    train: NDArray[np.float64], labels: NDArray[np.int64], test: NDArray[np.float64], classes: int, penalty: float
) -> NDArray[np.float64]:
    """(m, classes): logarithms of the classes' probabilities."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model: Any = LogisticRegression(C=penalty, max_iter=MOST_ITERATIONS)
    with warnings.catch_warnings():
        # Separable classes with next to no penalty: where it stops decides nothing that is scored.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(train, labels)
    scores = np.full((len(test), classes), -np.inf)  # of classes that are all held out
    scores[:, model.classes_] = model.predict_log_proba(test)
    return scores
