"""What an evaluation scores must be in `data:`, and which data sets it has."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic_core import PydanticCustomError

from jobspecs.columns import Document, Image, Query, Text
from jobspecs.data import Data, EvaluationData, Source
from jobspecs.evaluation import (
    Health,
    Knn,
    LinearProbe,
    Retrieval,
    Sts,
    ZeroShot,
    check_columns,
    data_of,
    sides_of,
    with_uris,
)
from jobspecs.scores import Score, main_score, score_names

Wrong = Callable[..., list[str]]
DATA = {"name": "a", "data": EvaluationData(urls=["a.tar"])}
TRAIN = {"train": EvaluationData(urls=["b.tar"])}
ZERO_SHOT = ZeroShot(kind="zero_shot", class_names=["one", "two"], **DATA)  # type: ignore[arg-type]
RETRIEVAL = Retrieval(kind="retrieval", **DATA)  # type: ignore[arg-type]
KNN = Knn(kind="knn", **DATA, **TRAIN)  # type: ignore[arg-type]
PROBE = LinearProbe(kind="linear_probe", **DATA, **TRAIN)  # type: ignore[arg-type]
STS = Sts(kind="sts", **DATA)  # type: ignore[arg-type]
HEALTH = Health(kind="health", **DATA)  # type: ignore[arg-type]
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
        (STS, {"image and text", "query and document"}, "a sts evaluation needs data.text, or data.query"),
        (HEALTH, {"image and text", "query and document"},
            "a health evaluation needs data.image and data.text, or data.query and data.document"),
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


def test_every_uri_is_turned() -> None:
    files = {"label_files": [{"name": "fine", "uri": "fine.txt"}]}
    zero_shot = ZeroShot.model_validate({"kind": "zero_shot", **DATA, **files})
    turned = with_uris(zero_shot, lambda place, uri: f"{place} {uri}")
    assert isinstance(turned, ZeroShot)
    assert (turned.data.urls, turned.label_files[0].uri) == (["data.urls a.tar"], "label_files.0.uri fine.txt")
    probe = with_uris(PROBE, lambda place, uri: f"{place} {uri}")
    assert [data.urls for data in data_of(probe).values()] == [["data.urls a.tar"], ["train.urls b.tar"]]


@pytest.mark.parametrize(
    ("evaluation", "columns", "main"),
    [
        (ZERO_SHOT, "image and text", Score("acc@1", higher_is_better=True)),
        (RETRIEVAL, "image and text", Score("mean_R@1", higher_is_better=True)),
        (RETRIEVAL, "query and document", Score("nDCG@10", higher_is_better=True)),
        (KNN, "image", Score("acc@1", higher_is_better=True)),
        (STS, "query and document", Score("spearman", higher_is_better=True)),
        (HEALTH, "image and text", Score("uniformity", higher_is_better=False)),
        (RETRIEVAL.model_copy(update={"main": "text_to_image_median_rank"}), "image and text",
            Score("text_to_image_median_rank", higher_is_better=False)),
        (HEALTH.model_copy(update={"main": "image_effective_rank"}), "image and text",
            Score("image_effective_rank", higher_is_better=True)),
    ],
)  # fmt: skip
def test_main_score(evaluation: Any, columns: str, main: Score) -> None:
    data = Data(sources=[Source(name="a", urls=["a.tar"])], **COLUMNS[columns])
    assert main_score(evaluation, data) == main
    assert main.name in score_names(evaluation, data)


def test_approximate_search_knows_no_median_rank() -> None:
    data = Data(sources=[Source(name="a", urls=["a.tar"])], **COLUMNS["query and document"])
    exact = score_names(RETRIEVAL, data)
    approximate = RETRIEVAL.model_copy(update={"search": "approximate", "main": "median_rank"})
    assert (*score_names(approximate, data), "median_rank") == exact
    with pytest.raises(PydanticCustomError, match="a retrieval evaluation has no score 'median_rank'"):
        check_columns(approximate, data, "evaluations.0")


def test_which_columns_are_encoded() -> None:
    pairs = Data(sources=[Source(name="a", urls=["a.tar"])], **COLUMNS["query and document"])
    images = Data(sources=[Source(name="a", urls=["a.tar"])], **COLUMNS["image and text"])
    assert (sides_of(RETRIEVAL, pairs), sides_of(RETRIEVAL, images)) == (("query", "document"), ("image", "text"))
    assert (sides_of(STS, pairs), sides_of(STS, images), sides_of(KNN, images)) == (("query",), ("text",), ("image",))
    assert sides_of(STS.model_copy(update={"side": "document"}), pairs) == ("document",)


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
        ("evaluations.0.main=R@1",
            "evaluations.0.main: a zero_shot evaluation has no score 'R@1'\n"
            "    Its scores: acc@1, acc@5, mean_per_class_recall."),
        ("evaluations.0={kind: sts, name: a, data: {urls: [a.tar]}, side: query}",
            "(evaluations.0.side): there is no data.query\n    Text columns here: text."),
        ("evaluations.0={kind: zero_shot, name: a, data: {urls: [a.tar]}}",
            "(evaluations.0.class_names): 'class_names' is missing\n"
            "    Names in the order of the labels; or give label_files."),
        ("evaluations.0.label_files=[{name: fine, uri: a.txt}]",
            "evaluations.0.label_files: class_names and label_files are both given\n    Give one of them."),
        ("evaluations.0={kind: zero_shot, name: a, data: {urls: [a.tar]}, "
            "label_files: [{name: b, uri: a.txt}, {name: b, uri: c.txt}]}",
            "(evaluations.0.label_files.1.name): names are unique; label_files.0 has the name 'b' too"),
        ("evaluations.0.class_names=[one]", "evaluations.0.class_names: there are two class names at least"),
        ("evaluations.0={kind: sts, name: a, data: {urls: [a.tar]}, first: {column: txt, field: a}}",
            "(evaluations.0.first.field): field 'a' is one of a JSON member, and column is 'txt'\n"
            "    For example column: json."),
        ("evaluations.0={kind: linear_probe, name: a, data: {urls: [a.tar]}, train: {urls: [b.tar]}, features: x}",
            "(evaluations.0.features): should be 'backbone' or 'embedding', given: \"x\""),
    ],
)  # fmt: skip
def test_a_fault(wrong: Wrong, example: str, override: str, fault: str) -> None:
    (found,) = wrong(example, override)
    assert found.endswith(fault)
