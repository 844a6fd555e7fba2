"""The URIs of a spec: none is forgotten, each has its place."""

from __future__ import annotations

from jobspecs.load import load
from jobspecs.mining import Mining
from orchestrator.named_uris import named_uris, with_uris
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
