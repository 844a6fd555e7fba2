"""Zero-shot classification: an image is of the class whose prompts are nearest.

As in CLIP (Radford et al. 2021, §3.1.4): the embeddings of a class's prompts are averaged and normalised
again. Ties count as the mean over their orders, so a collapsed model scores 1 / classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jobspecs.errors import DataError
from jobspecs.evaluation import ZeroShot
from workers.evaluate.classification import accuracies, label_of
from workers.evaluate.encode import Encoder
from workers.evaluate.result import Scores


def zero_shot(spec: ZeroShot, encoder: Encoder) -> Scores:
    """Scores `acc@1` (main), `acc@5` where there are more than 5 classes, and `mean_per_class_recall`.

    Raises DataError: a label that is missing or no class, or no image at all.
    """
    images = encoder.images(spec.data.urls, spec.label_column, spec.batch)
    labels = np.array([_label(spec, column) for column in images.column])
    if not len(labels):
        raise DataError(f"evaluation {spec.name!r}: not one image of {', '.join(spec.data.urls)} could be scored.")
    classes = class_embeddings(spec, encoder)
    return Scores(
        main="acc@1",
        scores=accuracies(images.features @ classes.T, labels),
        samples=len(labels),
        skipped=images.skipped,
        chance=1 / len(spec.class_names),
    )


def class_embeddings(spec: ZeroShot, encoder: Encoder) -> NDArray[np.float32]:
    """(classes, d): the normalised mean of each class's prompt embeddings."""
    prompts = [template.replace("{}", name) for name in spec.class_names for template in spec.templates]
    features = encoder.texts(prompts, spec.batch)
    means = features.reshape(len(spec.class_names), len(spec.templates), -1).mean(1)
    normalised: NDArray[np.float32] = means / np.linalg.norm(means, axis=1, keepdims=True)
    return normalised


def _label(spec: ZeroShot, column: bytes) -> int:
    label = label_of(spec, column, "the index of its class (from 0)")
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(spec.class_names):
        raise DataError(
            f"evaluation {spec.name!r}: label {label!r} is not the index of one of {len(spec.class_names)} class_names."
        )
    return label
