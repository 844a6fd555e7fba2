"""The URIs and models of a spec: none is forgotten, each has its place."""

from __future__ import annotations

from jobspecs.load import load
from jobspecs.mining import BM25, Mining
from orchestrator.named_uris import named_models, named_uris, with_models, with_uris
from tests.orchestrator.conftest import EXAMPLE


def test_every_uri_has_its_place() -> None:
    spec = load(
        EXAMPLE,
        (
            "storage.root=a",
            "data.sources.0.urls=[b, c]",
            "data.sources.0.index=d",
            "evaluations.0.data.urls=[e]",
            "evaluations.0.class_names=[]",
            "evaluations.0.label_files=[{name: fine, uri: f}]",
        ),
    ).model_copy(update={"mining": Mining(corpus=["g"])})
    expected = [
        ("storage.root", "a"),
        ("data.sources.0.urls", "b"),
        ("data.sources.0.urls", "c"),
        ("data.sources.0.index", "d"),
        ("evaluations.0.data.urls", "e"),
        ("evaluations.0.label_files.0.uri", "f"),
        ("mining.corpus", "g"),
    ]
    assert named_uris(spec) == expected
    turned = with_uris(spec, lambda place, uri: f"file:///{uri}")
    assert named_uris(turned) == [(place, f"file:///{uri}") for place, uri in expected]


CLIP = (
    "model.image={kind: pretrained, name: a}",
    "model.text={kind: pretrained, name: b}",
    "data.text.tokenizer={kind: pretrained, name: c}",
)


def test_every_model_has_its_place() -> None:
    mining = Mining(model="d", before_training=True)
    spec = load(EXAMPLE, CLIP).model_copy(update={"mining": mining})
    expected = [("model.image.name", "a"), ("model.text.name", "b"), ("data.text.tokenizer.name", "c")]
    assert named_models(spec) == [*expected, ("mining.model", "d")]
    turned = with_models(spec, lambda place, name: f"/{name}")
    assert named_models(turned) == [*((place, f"/{name}") for place, name in expected), ("mining.model", "/d")]
    for other in (Mining(model="d"), Mining(model=BM25, before_training=True)):
        assert named_models(spec.model_copy(update={"mining": other})) == expected
    assert named_models(load(EXAMPLE)) == []
