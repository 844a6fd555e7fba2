"""`evaluations:` the tasks that score a committed checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from jobspecs.base import Name, PositiveFloat, Section, defaults, misplaced
from jobspecs.columns import Column, FieldPath, check_json
from jobspecs.data import Data, EvaluationData
from jobspecs.schedule import Schedule
from jobspecs.scores import score_names
from jobspecs.units import NonNegativeInt, PositiveInt


class _Scored(Section):
    name: Name
    """Names its result; unique in the job."""
    data: EvaluationData
    """What is scored."""
    batch: PositiveInt = 256
    """Samples that are encoded at a time."""
    main: str | None = None
    """Which of its scores is the main one, by which checkpoints are compared. None leaves it to the kind."""
    seed: NonNegativeInt = 0
    """Keys what it draws: the resamples of the confidence interval, and the pairs that `health` looks at."""


class _Evaluation(Schedule, _Scored):
    """What all kinds have, what they score before when."""


def _have_a_place(templates: list[str] | None) -> list[str] | None:
    for template in templates or ():
        if template.count("{}") != 1:
            raise ValueError(f"a template has one {{}} for the class name, {template!r} has not")
    return templates


class LabelFile(Section):
    """A file of class names."""

    name: Name
    """Stands before its scores, as in `coarse_acc@1`."""
    uri: str = Field(min_length=1)
    """A path, or a `file://` or `s3://` URI: a text with a name a line, or, where it ends in `.json`, a list of names
    or `{"class_names": […], "templates": […]}`; in the order of the labels."""
    templates: list[str] | None = Field(default=None, min_length=1)
    """Prompts of these names. None takes those in the file, and those of the evaluation where it has none."""
    label_field: FieldPath | None = None
    """Field that holds the index among these names. None takes that of the evaluation."""

    _templates = field_validator("templates")(_have_a_place)


class ZeroShot(_Evaluation):
    """Images classified by the class name whose prompts are nearest (Radford et al. 2021, §3.1).

    Main score: `acc@1`, in 0…1; with several label files the mean of theirs, and each has its own scores besides.
    """

    kind: Literal["zero_shot"]
    """Which task."""
    class_names: list[str] = Field(default=[])
    """Names in the order of the labels."""
    label_files: list[LabelFile] = Field(default=[])
    """Files of names, in place of `class_names`: the same images, labelled in several ways or languages."""
    templates: list[str] = Field(default=["a photo of a {}"], min_length=1)
    """Prompts; `{}` stands for the class name. Their embeddings are averaged and renormalised."""
    label_column: str = "json"
    """JSON member of a sample that holds the label."""
    label_field: str = "label"
    """Its field: the index of the class, from 0."""

    _templates = field_validator("templates")(_have_a_place)

    @field_validator("class_names")
    @classmethod
    def _unique(cls, names: list[str]) -> list[str]:
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"class names are unique; more than once: {', '.join(twice)}")
        if len(names) == 1:
            raise ValueError("there are two class names at least")
        return names

    @model_validator(mode="after")
    def _has_names(self) -> ZeroShot:
        if self.class_names and self.label_files:
            raise misplaced("label_files", "class_names and label_files are both given", "Give one of them.")
        if not self.class_names and not self.label_files:
            raise misplaced(
                "class_names", "'class_names' is missing", "Names in the order of the labels; or give label_files."
            )
        names = [file.name for file in self.label_files]
        for number, name in enumerate(names):
            if name in names[:number]:
                raise misplaced(
                    f"label_files.{number}.name",
                    f"names are unique; label_files.{names.index(name)} has the name {name!r} too",
                )
        return self


Search = Literal["exact", "approximate"]
"""Whether all candidates are compared, or FAISS finds most of the nearest faster. The result says which."""


class Retrieval(_Evaluation):
    """With images and texts: text to image and image to text; samples with equal texts are positives of each
    other. Main score: the mean of both directions' R@1, in 0…1.

    With queries and documents: the documents of all samples are ranked for each query; equal documents are one
    candidate. Main score: `nDCG@10`, in 0…1.

    `R@k` is the share of queries with a positive among the best k (hit), `recall@k` the share of a query's positives
    that are.
    """

    kind: Literal["retrieval"]
    """Which task."""
    search: Search = "exact"
    """`approximate` looks for the best 128 of each query by FAISS (the extra `tandem[faiss]`), for millions of queries:
    what it does not find is behind all others, and there is no `median_rank`."""


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
    search: Search = "exact"
    """`approximate` looks for the neighbours by FAISS (the extra `tandem[faiss]`), for millions of images."""


class LinearProbe(_OnFeatures):
    """Images classified by multinomial logistic regression on standardised features; its L2 penalty is chosen on
    a fifth of the training images.

    Main score: `acc@1`, in 0…1.
    """

    kind: Literal["linear_probe"]
    """Which task."""


class TextPlace(Section):
    """Where a text of a pair stands."""

    column: Column = "json"
    """Extension of the member that holds it."""
    field: FieldPath | None = None
    """Field of a `.json` member that holds it. None takes the whole member as the text."""

    @model_validator(mode="after")
    def _field_of_json(self) -> TextPlace:
        if self.field is not None:
            check_json(self.column, self.field)
        return self


class Sts(_Evaluation):
    """Pairs of texts whose cosine should rise with a score that people gave them (semantic textual similarity).

    Main score: `spearman`, -1…1; chance is 0.
    """

    kind: Literal["sts"]
    """Which task."""
    first: TextPlace = defaults(TextPlace, field="sentence1")
    """One text."""
    second: TextPlace = defaults(TextPlace, field="sentence2")
    """The other."""
    score_column: Column = "json"
    """JSON member of a sample that holds the score of the pair."""
    score_field: FieldPath = "score"
    """Its field: a number."""
    side: Literal["text", "query", "document"] | None = None
    """As which column of `data:` both are encoded, with its prefix and its tower. None takes `text`, or `query`."""


class Health(_Evaluation):
    """How the features lie on the sphere (Wang & Isola 2020): whether positives are near and the rest is spread out.

    Main score: `uniformity`, the mean over both sides; about -4…0, less is better, and 0 is a collapsed model's.
    """

    kind: Literal["health"]
    """Which task."""


def evaluation_hash(section: Section) -> str:
    """sha256 of an evaluation in canonical JSON, but for when and on what it is done: a result is one of the section
    that has its hash."""
    scored = section.model_dump(mode="json", exclude=set(Schedule.model_fields))
    canonical = json.dumps(scored, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


Evaluation = Annotated[ZeroShot | Retrieval | Knn | LinearProbe | Sts | Health, Field(discriminator="kind")]
"""The evaluation sections."""

_PAIRS = (("image", "text"), ("query", "document"))
_COLUMNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "zero_shot": (("image", "text"),),
    "retrieval": _PAIRS,
    "knn": (("image",),),
    "linear_probe": (("image",),),
    "sts": (("text",), ("query",)),
    "health": _PAIRS,
}
"""Columns that a kind scores: sections of `data:`; alternatives."""


def check_columns(evaluation: Evaluation, data: Data, path: str) -> None:
    """Raises the fault, to be raised by a validator, of an evaluation at `path` that scores what `data` lacks, or
    whose main score is none of its scores."""
    alternatives = _COLUMNS[evaluation.kind]
    fault: PydanticCustomError
    if not any(all(getattr(data, column) is not None for column in columns) for columns in alternatives):
        wanted = ", or ".join(" and ".join(f"data.{column}" for column in columns) for columns in alternatives)
        fault = misplaced(f"{path}.kind", f"a {evaluation.kind} evaluation needs {wanted}")
        raise fault
    if isinstance(evaluation, Sts) and evaluation.side is not None and evaluation.side not in data.texts:
        fault = misplaced(
            f"{path}.side", f"there is no data.{evaluation.side}", f"Text columns here: {', '.join(data.texts)}."
        )
        raise fault
    names = score_names(evaluation, data)
    if evaluation.main is not None and evaluation.main not in names:
        fault = misplaced(
            f"{path}.main",
            f"a {evaluation.kind} evaluation has no score {evaluation.main!r}",
            f"Its scores: {', '.join(names)}.",
        )
        raise fault


def sides_of(evaluation: Evaluation, data: Data) -> tuple[str, ...]:
    """The columns of `data` that an evaluation encodes; it passed `check_columns`."""
    if isinstance(evaluation, Sts) and evaluation.side is not None:
        return (evaluation.side,)
    there = (
        columns for columns in _COLUMNS[evaluation.kind] if all(getattr(data, name) is not None for name in columns)
    )
    return next(there)


def data_of(evaluation: Evaluation) -> dict[str, EvaluationData]:
    """The data sets of an evaluation, by field."""
    named = {"data": evaluation.data}
    return named | {"train": evaluation.train} if isinstance(evaluation, _OnFeatures) else named


def with_uris(evaluation: Evaluation, turned: Callable[[str, str], str]) -> Evaluation:
    """`evaluation` with `turned(place, uri)` for each URL and URI that it names, for instance made absolute. place: in
    the evaluation, such as `data.urls`."""
    update: dict[str, object] = {
        name: EvaluationData(urls=[turned(f"{name}.urls", url) for url in scored.urls])
        for name, scored in data_of(evaluation).items()
    }
    if isinstance(evaluation, ZeroShot):
        update["label_files"] = [
            file.model_copy(update={"uri": turned(f"label_files.{number}.uri", file.uri)})
            for number, file in enumerate(evaluation.label_files)
        ]
    return evaluation.model_copy(update=update)
