"""What an evaluation scores must be in `data:`, and which data sets it has."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic_core import PydanticCustomError

from jobspecs.columns import Document, Image, Query, Text
from jobspecs.data import Data, EvaluationData, Source
from jobspecs.evaluation import Knn, LinearProbe, Retrieval, ZeroShot, check_columns, data_of

Wrong = Callable[..., list[str]]
DATA = {"name": "a", "data": EvaluationData(urls=["a.tar"])}
TRAIN = {"train": EvaluationData(urls=["b.tar"])}
ZERO_SHOT = ZeroShot(kind="zero_shot", class_names=["one", "two"], **DATA)  # type: ignore[arg-type]
RETRIEVAL = Retrieval(kind="retrieval", **DATA)  # type: ignore[arg-type]
KNN = Knn(kind="knn", **DATA, **TRAIN)  # type: ignore[arg-type]
PROBE = LinearProbe(kind="linear_probe", **DATA, **TRAIN)  # type: ignore[arg-type]
COLUMNS: dict[str, dict[str, Any]] = {
    "image": {"image": Image(size=8)},
    "image and text": {"image": Image(size=8), "text": Text()},
    "query and document": {"query": Query(), "document": Document()},
    "document": {"document": Document()},
}


@pytest.mark.parametrize(
    ("evaluation", "fits", "needs"),
    [
        (ZERO_SHOT, {"image and text"}, "a zero_shot evaluation needs data.image and data.text"),
        (RETRIEVAL, {"image and text", "query and document"},
            "a retrieval evaluation needs data.image and data.text, or data.query and data.document"),
        (KNN, {"image", "image and text"}, "a knn evaluation needs data.image"),
        (PROBE, {"image", "image and text"}, "a linear_probe evaluation needs data.image"),
    ],
)  # fmt: skip
def test_what_it_scores_is_there(evaluation: Any, fits: set[str], needs: str) -> None:
    for name, columns in COLUMNS.items():
        data = Data(sources=[Source(name="a", urls=["a.tar"])], **columns)
        if name in fits:
            check_columns(evaluation, data, "evaluations.0")
            continue
        with pytest.raises(PydanticCustomError, match=needs) as raised:
            check_columns(evaluation, data, "evaluations.7")
        assert raised.value.context == {"message": needs, "path": "evaluations.7.kind", "remedy": ""}


def test_its_data_sets() -> None:
    assert data_of(RETRIEVAL) == {"data": DATA["data"]}
    assert data_of(PROBE) == {"data": DATA["data"], **TRAIN}


def test_a_job_is_checked(wrong: Wrong, fulls: dict[str, dict[str, Any]]) -> None:
    section = "evaluations=[{kind: retrieval, name: pairs, data: {urls: [a.tar]}}]"
    assert wrong(json.dumps(fulls["text_text"]), section) == []
    (fault,) = wrong(json.dumps(fulls["two_view"]), section)
    assert fault == (
        "--set evaluations (evaluations.0.kind): "
        "a retrieval evaluation needs data.image and data.text, or data.query and data.document"
    )


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("evaluations.0={kind: knn, name: a, data: {urls: [a.tar]}}",
            "(evaluations.0.train): 'train' is missing\n"
            "    What the classifier learns from; `data` is what it is scored on."),
        ("evaluations.0={kind: knn, name: a, data: {urls: [a.tar]}, train: {urls: [b.tar]}, k: 0}",
            "(evaluations.0.k): should be greater than or equal to 1, given: 0"),
        ("evaluations.0={kind: knn, name: a, data: {urls: [a.tar]}, train: {urls: [b.tar]}, temperature: 0}",
            "(evaluations.0.temperature): should be greater than 0, given: 0"),
        ("evaluations.0={kind: linear_probe, name: a, data: {urls: [a.tar]}, train: {urls: [b.tar]}, features: x}",
            "(evaluations.0.features): should be 'backbone' or 'embedding', given: \"x\""),
    ],
)  # fmt: skip
def test_a_fault(wrong: Wrong, example: str, override: str, fault: str) -> None:
    (found,) = wrong(example, override)
    assert found.endswith(fault)
