"""`evaluations:` the tasks that score a committed checkpoint."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field, field_validator

from jobspecs.base import Name, PositiveInt, Section
from jobspecs.data import EvaluationData


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
    """Text to image and image to text; samples with equal texts are positives of each other.

    Main score: the mean of both directions' R@1, in 0…1.
    """

    kind: Literal["retrieval"]
    """Which task."""


def evaluation_hash(section: Section) -> str:
    """sha256 of an evaluation in canonical JSON: a result is one of the section that has its hash."""
    canonical = json.dumps(section.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


Evaluation = Annotated[ZeroShot | Retrieval, Field(discriminator="kind")]
"""The evaluation sections."""
