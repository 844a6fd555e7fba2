"""Rules of the objectives: among their own fields, with the columns of `data:` and with the towers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from jobspecs.load import loads

Wrong = Callable[..., list[str]]
Fulls = dict[str, dict[str, Any]]


@pytest.mark.parametrize(
    ("name", "override", "fault"),  # of a spec in full; the place is that of the override, unless it is named
    [
        # Losses, each of its own objective.
        ("image_text", "objective.loss={kind: ntxent}",
            "(objective.loss.kind): should be 'infonce' or 'siglip', given: \"ntxent\""),
        ("image_text", "objective.loss=infonce",
            ": should be a mapping, `key: value`, given: \"infonce\"\n    Write {kind: infonce}."),
        ("image_text", "objective.loss={label_smoothing: 0.1}",
            "(objective.loss.kind): 'kind' is missing\n    It is one of 'infonce', 'siglip'."),
        ("two_view", "objective.loss={label_smoothing: 0.1}",
            "(objective.loss.kind): 'kind' is missing\n    It is 'ntxent'."),
        ("two_view", "objective.loss.kind=infonce", ": should be 'ntxent', given: \"infonce\""),
        ("two_view", "objective.loss.direction=both",
            ": unknown key 'direction'\n    Allowed here: label_smoothing, hardness, kind."),
        ("text_text", "objective.loss=siglip",
            ": should be a mapping, `key: value`, given: \"siglip\"\n    Its kind is 'infonce'."),
        ("text_text", "objective.loss.direction=image_to_text",
            ": should be 'query_to_document', 'document_to_query' or 'both', given: \"image_to_text\""),
        ("sigmoid", "objective.loss.label_smoothing=0.1",
            ": unknown key 'label_smoothing'\n    It is a field of kind 'infonce'. Allowed here: kind, bias."),
        ("image_text", "objective.loss.bias={}",
            ": unknown key 'bias'\n    It is a field of kind 'siglip'. "
            "Allowed here: label_smoothing, hardness, kind, direction."),
        ("image_text", "objective.label_smoothing=0.1",
            ": unknown key 'label_smoothing'\n    It is a field of objective.loss. "
            "Allowed here: logit_scale, matryoshka, wire_dtype, kind, loss, false_negatives."),
        ("image_text", "objective.loss.label_smoothing=1", ": should be less than 1, given: 1"),
        ("image_text", "objective.loss.hardness=-1", ": should be greater than or equal to 0, given: -1"),
        # What is shared.
        ("image_text", "objective.kind=image_txt",
            ": should be 'image_text', 'two_view' or 'text_text', given: \"image_txt\"\n"
            "    Did you mean 'image_text'?"),
        ("image_text", "objective.wire_dtype=float16", ": should be 'fp32', 'fp16' or 'bf16', given: \"float16\""),
        ("two_view", "objective.false_negatives.equal=[text]", "(objective.false_negatives.equal.0): "
            "should be 'image', given: \"text\""),
        ("image_text", "objective.false_negatives.equal=[image, query]", "(objective.false_negatives.equal.1): "
            "should be 'image' or 'text', given: \"query\""),
        ("image_text", "objective.matryoshka=32", ": should be a mapping, `key: value`, given: 32"),
        ("image_text", "objective.matryoshka={dims: []}",
            "(objective.matryoshka.dims): should have at least 1 item, given: []"),
        ("image_text", "objective.matryoshka={dims: [16, 0]}",
            "(objective.matryoshka.dims.1): should be greater than or equal to 1, given: 0"),
        ("image_text", "objective.matryoshka={dims: [16, 8, 16]}",
            "(objective.matryoshka.dims.2): 16 stands in dims twice\n    Keep one."),
        ("image_text", "objective.matryoshka={dims: [16, 64]}",
            "(objective.matryoshka.dims.1): 64 is not less than model.embedding_dim, 64\n"
            "    The whole width is trained in any case."),
        ("image_text", "objective.matryoshka={dims: [16, 8], weights: [1]}",
            "(objective.matryoshka.weights): 1 weights for 2 dims\n    Give one for each."),
        # Columns.
        ("image_text", "data.image=", ": 'image' is missing\n"
            "    The image of a sample. Objective image_text needs it."),
        ("image_text", "data.negatives={}", ": objective image_text has no use for data.negatives\n"
            "    It contrasts image and text."),
        ("two_view", "data.image=",
            ": 'image' is missing\n    The image of a sample. Objective two_view needs it."),
        ("two_view", "data.text={}",
            ": objective two_view has no use for data.text\n    It contrasts image."),
        ("two_view", "data.image.views=1", ": objective two_view takes 2 views, not 1"),
        ("image_text", "data.image.views=2", ": objective image_text takes 1 view, not 2"),
        ("text_text", "data.query=",
            ": 'query' is missing\n    The query of a pair of texts. Objective text_text needs it."),
        ("text_text", "data.document=",
            ": 'document' is missing\n    The document that answers the query. Objective text_text needs it."),
        ("text_text", "data.image={size: 8}",
            ": objective text_text has no use for data.image\n    It contrasts query and document."),
        ("text_text", "data.text={}",
            ": objective text_text has no use for data.text\n    It contrasts query and document."),
    ],
)  # fmt: skip
def test_a_fault(wrong: Wrong, fulls: Fulls, name: str, override: str, fault: str) -> None:
    (found,) = wrong(json.dumps(fulls[name]), override)
    path = override.partition("=")[0]
    assert found == (f"--set {path}{fault}" if fault.startswith(":") else f"--set {path} {fault}")


def test_negatives_need_a_direction_that_looks_at_them(wrong: Wrong, fulls: Fulls) -> None:
    text = json.dumps(fulls["text_text"], indent=2)
    (fault,) = wrong(text, "objective.loss.direction=document_to_query")
    line = next(number for number, words in enumerate(text.splitlines(), 1) if '"negatives": {' in words)
    assert fault == (
        f"job.yaml:{line} (data.negatives): negatives are candidates of queries, "
        "and objective.loss.direction is document_to_query\n"
        "    Leave them out, or choose the direction query_to_document or both."
    )
    assert wrong(text, "objective.loss.direction=both") == []
    assert wrong(text, "objective.loss.direction=document_to_query", "data.negatives=") == []


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("image_text", ["objective={kind: image_text}"]),
        ("image_text", ["objective.matryoshka={dims: [63, 1]}"]),
        ("image_text", ["objective.false_negatives={equal: [image, text], margin: -0.1}"]),
        ("sigmoid", ["objective.loss.bias={init: 3, learnable: false}", "objective.logit_scale={init: 10}"]),
        ("two_view", ["objective={kind: two_view}"]),
        ("text_text", ["objective={kind: text_text}", "data.negatives="]),
    ],
)
def test_what_is_right(fulls: Fulls, name: str, overrides: list[str]) -> None:
    loads(json.dumps(fulls[name]), overrides=tuple(overrides))


def test_the_defaults_are_those_of_the_papers(example: str) -> None:
    """CLIP's both directions and 0.07; SigLIP's bias of -10; queries among documents for pairs of texts."""
    spec = loads(example, overrides=("objective={kind: image_text}",))
    assert spec.objective.loss.model_dump() == {
        "kind": "infonce", "direction": "both", "label_smoothing": 0.0, "hardness": 0.0
    }  # fmt: skip
    assert spec.objective.logit_scale.model_dump() == {"init": 1 / 0.07, "max": 100.0, "learnable": True}
    spec = loads(example, overrides=("objective={kind: image_text, loss: {kind: siglip}}",))
    assert spec.objective.loss.model_dump() == {"kind": "siglip", "bias": {"init": -10.0, "learnable": True}}
