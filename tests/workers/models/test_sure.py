"""Towers that are said to fit do; those of which nobody knows are looked at."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobspecs.columns import Image, Text
from jobspecs.data import Data, Source
from jobspecs.model import ImagePreset, ImageTransformer, Model, TextPreset, TextTransformer, check_inputs
from workers.data.tokenize import byte_tokenizer
from workers.models.build import tower_sizes
from workers.models.sure import sure_to_fit


def of(image: dict[str, Any] | None, text: dict[str, Any] | None, size: int = 32, dim: int = 16) -> tuple[Model, Data]:
    given = {name: tower for name, tower in (("image", image), ("text", text)) if tower is not None}
    columns = {"image": Image(size=size), "text": Text(context_length=8)}
    data = Data(sources=[Source(name="x", urls=["x.tar"])], **{name: columns[name] for name in given})
    return Model.model_validate({**given, "embedding_dim": dim}), data


def poolings(section: type[Any]) -> st.SearchStrategy[str]:
    return st.sampled_from(get_args(section.model_fields["pooling"].annotation))


SMALL = {
    "kind": st.just("transformer"),
    "layers": st.integers(1, 2),
    "heads": st.sampled_from([1, 3]),
    "width": st.sampled_from([6, 12]),
    "mlp_ratio": st.integers(1, 4),
    "projection": st.sampled_from(["auto", "linear", "mlp"]),
}


@settings(max_examples=30)
@given(
    st.fixed_dictionaries({**SMALL, "patch": st.sampled_from([1, 4, 8]), "pooling": poolings(ImageTransformer)}),
    st.fixed_dictionaries({**SMALL, "pooling": poolings(TextTransformer)}),
    st.sampled_from([8, 24]),
    st.sampled_from([1, 12]),
)
def test_transformers_of_all_sizes_fit(image: dict[str, Any], text: dict[str, Any], size: int, dim: int) -> None:
    model, data = of(image, text, size, dim)
    check_inputs(model, data)
    assert sure_to_fit(model, data)
    assert tower_sizes(model, data, {"text": byte_tokenizer()}).keys() == {"image", "text"}


@pytest.mark.parametrize("name", get_args(TextPreset.model_fields["name"].annotation))
def test_published_text_towers_fit(name: str) -> None:
    model, data = of(None, {"kind": "preset", "name": name})
    assert sure_to_fit(model, data)
    assert tower_sizes(model, data, {"text": byte_tokenizer()})


@pytest.mark.parametrize("name", get_args(ImagePreset.model_fields["name"].annotation))
def test_published_image_towers_fit_where_their_patches_do(name: str) -> None:
    model, data = of({"kind": "preset", "name": name}, None, size=224)
    assert sure_to_fit(model, data) == (name != "ResNet-50")
    assert tower_sizes(model, data, {})
    assert not sure_to_fit(*of({"kind": "preset", "name": name}, None, size=225))


@pytest.mark.parametrize(
    "text",
    [
        {"kind": "preset", "name": "MiniLM-L6", "pooling": "own"},
        {"kind": "preset", "name": "MiniLM-L6", "projection": "none"},
        {"kind": "preset", "name": "MiniLM-L6", "frozen": True},
        {"kind": "transformer", "width": 6, "layers": 1, "heads": 1, "dropout": 0.1},
        {"kind": "config", "architecture": "bert"},
        {"kind": "pretrained", "name": "somebody/something"},
    ],
)
def test_others_are_looked_at(text: dict[str, Any]) -> None:
    assert not sure_to_fit(*of(None, text))
