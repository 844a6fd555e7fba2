"""The rules between sections: each is told where it is broken, all that are broken at once.

A rule that follows from another one being broken is not looked at: what an evaluation scores, where the columns of the
data are wrong already, or what a name refers to that stands twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticCustomError

from jobspecs.base import misplaced
from jobspecs.data import Data
from jobspecs.deepspeed import check_deepspeed
from jobspecs.descriptions import description
from jobspecs.evaluation import Evaluation, check_columns
from jobspecs.mining import check_mining
from jobspecs.model import check_inputs, check_towers
from jobspecs.objective import Matryoshka, TextInfoNCE
from jobspecs.references import check_references
from jobspecs.retry import check_times
from jobspecs.training import Training

if TYPE_CHECKING:
    from jobspecs.job import JobSpec
    from jobspecs.objective import Objective

Rule = Callable[[], None]
"""Raises what `misplaced` makes."""

_COLUMNS = {"image_text": ("image", "text"), "two_view": ("image",), "text_text": ("query", "document")}
"""Columns of a sample that an objective contrasts: sections of `data:`."""
_OPTIONAL = {"text_text": ("negatives",)}
"""Columns that it takes and can do without."""
_VIEWS = {"image_text": 1, "two_view": 2}
"""Views of an image that it takes."""


def check_fit(spec: JobSpec) -> None:
    """Raises the faults of sections that don't fit each other, to be raised by the validator of the whole."""
    faults = _broken(_rules(spec)) or _broken(_rules_that_follow(spec))
    if faults:
        raise PydanticCustomError("rules", "sections don't fit", {"rules": faults})


def _broken(rules: Iterator[Rule]) -> list[dict[str, Any]]:
    found = []
    for rule in rules:
        try:
            rule()
        except PydanticCustomError as error:
            found.append(dict(error.context or {}))
    return found


def _rules(spec: JobSpec) -> Iterator[Rule]:
    objective, data, model, training = spec.objective, spec.data, spec.model, spec.training
    kind = objective.kind
    yield partial(_check_columns, data, kind)
    yield partial(check_towers, model, _COLUMNS[kind], kind)
    yield partial(_check_direction, objective, data)
    yield partial(_check_prefixes, objective.matryoshka, model.embedding_dim)
    yield partial(_check_lanes, training, data)
    yield partial(check_times, spec.cluster, spec.retry)
    yield partial(check_deepspeed, spec.deepspeed, training)
    yield partial(_check_names, spec.evaluations)
    if spec.mining is not None:
        yield partial(check_mining, spec.mining, kind, data.negatives)


def _rules_that_follow(spec: JobSpec) -> Iterator[Rule]:
    yield partial(check_inputs, spec.model, spec.data)
    yield partial(check_references, spec.evaluations, spec.checkpoint.keep_best, spec.stop)
    for number, evaluation in enumerate(spec.evaluations):
        yield partial(check_columns, evaluation, spec.data, f"evaluations.{number}")


def _check_columns(data: Data, kind: str) -> None:
    wanted, optional = _COLUMNS[kind], _OPTIONAL.get(kind, ())
    for name in wanted:
        if getattr(data, name) is None:
            raise misplaced(
                f"data.{name}", f"{name!r} is missing", f"{description(Data, name)} Objective {kind} needs it."
            )
    for name in ("image", "text", "query", "document", "negatives"):
        if name not in (*wanted, *optional) and getattr(data, name) is not None:
            contrasts = f"It contrasts {' and '.join(wanted)}."
            raise misplaced(f"data.{name}", f"objective {kind} has no use for data.{name}", contrasts)
    if data.image is not None and data.image.views != _VIEWS[kind]:
        count = f"{_VIEWS[kind]} view{'s' if _VIEWS[kind] > 1 else ''}"
        raise misplaced("data.image.views", f"objective {kind} takes {count}, not {data.image.views}")


def _check_direction(objective: Objective, data: Data) -> None:
    loss = objective.loss
    if isinstance(loss, TextInfoNCE) and loss.direction == "document_to_query" and data.negatives is not None:
        raise misplaced(
            "data.negatives",
            "negatives are candidates of queries, and objective.loss.direction is document_to_query",
            "Leave them out, or choose the direction query_to_document or both.",
        )


def _check_prefixes(matryoshka: Matryoshka | None, width: int) -> None:
    for number, dim in enumerate(matryoshka.dims if matryoshka is not None else ()):
        if dim >= width:
            raise misplaced(
                f"objective.matryoshka.dims.{number}",
                f"{dim} is not less than model.embedding_dim, {width}",
                "The whole width is trained in any case.",
            )


def _check_lanes(training: Training, data: Data) -> None:
    batch, lanes = training.global_batch, data.lanes
    if lanes != "auto" and batch % lanes:
        raise misplaced("training.global_batch", f"global_batch {batch} is not a multiple of data.lanes, {lanes}")


def _check_names(evaluations: list[Evaluation]) -> None:
    names = [evaluation.name for evaluation in evaluations]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise misplaced(
                f"evaluations.{number}.name",
                f"names are unique; evaluations.{names.index(name)} has the name {name!r} too",
            )
