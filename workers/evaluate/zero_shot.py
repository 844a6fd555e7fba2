"""Zero-shot classification: an image is of the class whose prompts are nearest.

As in CLIP (Radford et al. 2021, §3.1.4): the embeddings of a class's prompts are averaged and normalised
again. Ties count as the mean over their orders, so a collapsed model scores 1 / classes.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from jobspecs.errors import DataError
from jobspecs.evaluation import ZeroShot
from workers.evaluate.bootstrap import average_of
from workers.evaluate.class_names import LabelSet, label_sets
from workers.evaluate.classification import label_of, measured_accuracies
from workers.evaluate.encode import Encoder
from workers.evaluate.result import Measured, Scores, scored


def zero_shot(spec: ZeroShot, encoder: Encoder) -> Scores:
    """Scores `acc@1` (main), `acc@5` where there are more than 5 classes, and `mean_per_class_recall`. With several
    label files each has these, with its name before them, and without one stands the mean of those that have it.

    Raises DataError: a label that is missing or no class, no image at all, or a file that holds no class names.
    """
    images = encoder.images(spec.data.urls, spec.label_column, spec.batch)
    if not images.column:
        raise DataError(f"evaluation {spec.name!r}: not one image of {', '.join(spec.data.urls)} could be scored.")
    sets = label_sets(spec, encoder.storage)
    of_sets: list[dict[str, Measured]] = []
    for labels in sets:
        numbers = np.array([_label(spec, labels, column) for column in images.column])
        similarity = images.features @ class_embeddings(labels, encoder, spec.batch).T
        of_sets.append(measured_accuracies(similarity, numbers, np.zeros(len(labels.class_names))))
    measured = _means(of_sets)
    for labels, own in zip(sets, of_sets, strict=True):
        if labels.name is not None:
            measured |= {f"{labels.name}_{name}": score for name, score in own.items()}
    names = "".join(f"{labels.class_names}{labels.templates}" for labels in sets)
    return scored(
        spec,
        encoder.data,
        measured,
        groups=(len(images.column),),
        samples=len(images.column),
        skipped=images.skipped,
        data_fingerprint=hashlib.sha256(f"{images.fingerprint}\n{names}".encode()).hexdigest(),
    )


def class_embeddings(labels: LabelSet, encoder: Encoder, batch: int) -> NDArray[np.float32]:
    """(classes, d): the normalised mean of each class's prompt embeddings."""
    prompts = [template.replace("{}", name) for name in labels.class_names for template in labels.templates]
    features = encoder.texts(prompts, batch)
    means = features.reshape(len(labels.class_names), len(labels.templates), -1).mean(1)
    normalised: NDArray[np.float32] = means / np.linalg.norm(means, axis=1, keepdims=True)
    return normalised


def _means(of_sets: list[dict[str, Measured]]) -> dict[str, Measured]:
    """The mean of each score over the label sets that have it."""
    named: dict[str, list[Measured]] = {}
    for own in of_sets:
        for name, score in own.items():
            named.setdefault(name, []).append(score)
    return {
        name: Measured(
            average_of([score.statistic for score in scores]), float(np.mean([score.chance for score in scores]))
        )
        for name, scores in named.items()
    }


def _label(spec: ZeroShot, labels: LabelSet, column: bytes) -> int:
    label = label_of(spec, column, "the index of its class (from 0)", labels.label_field)
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(labels.class_names):
        of = "class_names" if labels.name is None else f"class names of {labels.name!r}"
        raise DataError(
            f"evaluation {spec.name!r}: label {label!r} is not the index of one of {len(labels.class_names)} {of}."
        )
    return label
