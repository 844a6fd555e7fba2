"""`evaluations:` the tasks that score a committed checkpoint."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from jobspecs.base import Name, PositiveFloat, PositiveInt, Section, misplaced
from jobspecs.data import Data, EvaluationData


class _Evaluation(Section):
    name: Name
    """Names its result; unique in the job."""
    data: EvaluationData
    """What is scored."""
    batch: PositiveInt = 256
    """Samples that are encoded at a time."""


class ZeroShot(_Evaluation):
    """Images classified by the class name whose prompts are nearest (Radford et al. 2021, §3.1).

    Main score: `acc@1`, in 0…1.
    """

    kind: Literal["zero_shot"]
    """Which task."""
    class_names: list[str] = Field(min_length=2)
    """Names in the order of the labels."""
    templates: list[str] = Field(default=["a photo of a {}"], min_length=1)
    """Prompts; `{}` stands for the class name. Their embeddings are averaged and renormalised."""
    label_column: str = "json"
    """JSON member of a sample that holds the label."""
    label_field: str = "label"
    """Its field: the index of the class, from 0."""

    @field_validator("templates")
    @classmethod
    def _have_a_place(cls, templates: list[str]) -> list[str]:
        for template in templates:
            if template.count("{}") != 1:
                raise ValueError(f"a template has one {{}} for the class name, {template!r} has not")
        return templates

    @field_validator("class_names")
    @classmethod
    def _unique(cls, names: list[str]) -> list[str]:
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"class names are unique; more than once: {', '.join(twice)}")
        return names


class Retrieval(_Evaluation):
    """With images and texts: text to image and image to text; samples with equal texts are positives of each
    other. Main score: the mean of both directions' R@1, in 0…1.

    With queries and documents: the documents of all samples are ranked for each query; equal documents are one
    candidate. Main score: `nDCG@10`, in 0…1.
    """

    kind: Literal["retrieval"]
    """Which task."""


class _OnFeatures(_Evaluation):
    """What a classifier on frozen image features says of them."""

    train: EvaluationData
    """What the classifier learns from; `data` is what it is scored on."""
    features: Literal["backbone", "embedding"] = "backbone"
    """`backbone`: pooled, before the projection, which a contrastive loss makes blind to what augmentation
    changes (Chen et al. 2020, §4.2). `embedding`: behind the projection, L2-normalised."""
    label_column: str = "json"
    """JSON member of a sample that holds the label."""
    label_field: str = "label"
    """Its field: an integer or a text."""


class Knn(_OnFeatures):
    """Images classified by their nearest training images, each of which votes with exp(cosine / temperature)
    (Wu et al. 2018, §3.4, as in DINO).

    Main score: `acc@1`, in 0…1.
    """

    kind: Literal["knn"]
    """Which task."""
    k: PositiveInt = 20
    """Neighbours that vote."""
    temperature: PositiveFloat = 0.07
    """The smaller, the more the nearest count."""


class LinearProbe(_OnFeatures):
    """Images classified by multinomial logistic regression on standardised features; its L2 penalty is chosen on
    a fifth of the training images.

    Main score: `acc@1`, in 0…1.
    """

    kind: Literal["linear_probe"]
    """Which task."""


def evaluation_hash(section: Section) -> str:
    """sha256 of an evaluation in canonical JSON: a result is one of the section that has its hash."""
    canonical = json.dumps(section.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


Evaluation = Annotated[ZeroShot | Retrieval | Knn | LinearProbe, Field(discriminator="kind")]
"""The evaluation sections."""

_COLUMNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "zero_shot": (("image", "text"),),
    "retrieval": (("image", "text"), ("query", "document")),
    "knn": (("image",),),
    "linear_probe": (("image",),),
}
"""Columns that a kind scores: sections of `data:`; alternatives."""


def check_columns(evaluation: ZeroShot | Retrieval | Knn | LinearProbe, data: Data, path: str) -> None:
    """Raises the fault, to be raised by a validator, of an evaluation at `path` that scores what `data` lacks."""
    alternatives = _COLUMNS[evaluation.kind]
    if any(all(getattr(data, column) is not None for column in columns) for columns in alternatives):
        return
    wanted = ", or ".join(" and ".join(f"data.{column}" for column in columns) for columns in alternatives)
    fault: PydanticCustomError = misplaced(f"{path}.kind", f"a {evaluation.kind} evaluation needs {wanted}")
    raise fault


def data_of(evaluation: ZeroShot | Retrieval | Knn | LinearProbe) -> dict[str, EvaluationData]:
    """The data sets of an evaluation, by field."""
    named = {"data": evaluation.data}
    return named | {"train": evaluation.train} if isinstance(evaluation, _OnFeatures) else named
