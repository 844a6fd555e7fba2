"""Which metadata a filter keeps."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobspecs.data import Filter, Source
from workers.data.filters import canonical, field_of, keeps

NAN, INFINITY = float("nan"), float("inf")


# A filter on the field x, values of x that it keeps, values that it does not.
CASES: list[tuple[dict[str, Any], list[Any], list[Any]]] = [
    ({"at_least": 0.28}, [0.28, 0.3, 1, "0.28", " 7 ", 10**400, "1e999", Decimal("0.28"), INFINITY], [0.27, 0, "0.2"]),
    ({"at_most": 5.0}, [5, 5.0, -(10**400), "-1e999", -INFINITY], [5.1, 6, 10**400, INFINITY]),
    ({"at_least": 2.0, "at_most": 4.0}, [2, 3, 4, "3"], [1.9, 4.1, "5"]),
    ({"at_least": 0.0}, [0, 1], [None, True, False, "", "many", "0x10", [1], {"x": 1}, NAN, "nan", b"\xff"]),
    ({"one_of": ["en", "de"]}, ["en", "de"], ["fr", "EN", "", None, ["en"], "en ", 0, {}]),
    ({"one_of": [1, 2]}, [1, 2, 1.0], [0, "1", True, None, 1.5]),
    ({"one_of": [True]}, [True], [1, 1.0, "true", "True", False, None]),
    ({"one_of": [False]}, [False], [0, None, "", True]),
    ({"one_of": [1, 5, 9], "at_least": 4.0}, [5, 9], [1, 4, 6, "5"]),
    ({"one_of": ["5", 7], "at_most": 6.0}, ["5"], [7, 5]),
    # Texts are compared and never evaluated.
    ({"one_of": ["__import__('os')"]}, ["__import__('os')"], ["os", None]),
    ({"at_least": 1.0}, ["1"], ["1+1", "2 if True else 0", "__import__('os').getpid()"]),
]  # fmt: skip


@pytest.mark.parametrize(("filter_", "kept", "left_out"), CASES, ids=lambda each: str(each)[:60])
def test_a_filter(filter_: dict[str, Any], kept: list[Any], left_out: list[Any]) -> None:
    filters = [Filter(field="x", **filter_)]
    assert [value for value in kept if not keeps(filters, {"x": value})] == []
    assert [value for value in left_out if keeps(filters, {"x": value})] == []
    assert not keeps(filters, {"y": kept[0]}), "a sample without the field is left out"


def test_all_filters_must_hold() -> None:
    filters = [
        Filter(field="width", at_least=200),
        Filter(field="height", at_least=200),
        Filter(field="l", one_of=["e"]),
    ]
    assert keeps(filters, {"width": 200, "height": 300, "l": "e", "more": None})
    for less in ({"width": 199}, {"height": None}, {"l": "d"}):
        assert not keeps(filters, {"width": 200, "height": 300, "l": "e", **less})
    assert keeps([], {})


@pytest.mark.parametrize(
    ("metadata", "path", "value"),
    [
        ({"a": 1}, "a", 1),
        ({"a": {"b": {"c": 1}}}, "a.b.c", 1),
        ({"a.b": 1, "a": {"b": 2}}, "a.b", 1),
        ({"a": {"b.c": 1}}, "a.b.c", 1),
        ({"a": {"b": 1}}, "a", {"b": 1}),
        ({"a": 1}, "b", None),
        ({"a": 1}, "a.b", None),
        ({"a": [1]}, "a.0", None),
        ({"a": None}, "a.b", None),
        ([{"a": 1}], "a", None),
        ("a", "a", None),
        (None, "a", None),
    ],
)
def test_a_field(metadata: Any, path: str, value: Any) -> None:
    assert field_of(metadata, path) == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.sampled_from("xyz"), values, max_size=3),
)


@given(JSON, st.sampled_from(["x", "x.y", "x.y.z"]))
def test_any_metadata_is_understood(metadata: Any, path: str) -> None:
    text = json.dumps(metadata)
    for filter_ in (Filter(field=path, at_least=0), Filter(field=path, one_of=["", 0, True])):
        assert keeps([filter_], json.loads(text)) in (True, False)


def test_equal_filters_have_one_canonical_form_and_others_another() -> None:
    def source(filters: list[Filter], **other: Any) -> Source:
        return Source(**{"name": "s", "urls": ["*"], **other}, filters=filters)

    width = Filter(field="width", at_least=200)
    assert canonical(source([])) == canonical(source([], metadata="meta.json")) == ""
    form = canonical(source([width]))
    assert form == canonical(source([Filter(field="width", at_least=200.0)], name="t", urls=["a", "b"]))
    others = [
        source([Filter(field="width", at_least=201)]),
        source([Filter(field="width", at_most=200)]),
        source([Filter(field="height", at_least=200)]),
        source([width, width]),
        source([width], metadata="meta.json"),
        source([Filter(field="width", one_of=[1])]),
        source([Filter(field="width", one_of=["1"])]),
        source([Filter(field="width", one_of=[True])]),
    ]
    assert len({form, *map(canonical, others)}) == 1 + len(others)
