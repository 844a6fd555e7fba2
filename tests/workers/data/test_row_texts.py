"""The texts of a row: which one of several, and the negatives."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import stats

from jobspecs.columns import Document, Query
from tests.workers.data.samples import LENGTH, NEGATIVES, PAIR, captions, content, data_of, made, text_in
from workers.data.row_maker import texts_of


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("caption", {"caption": "one"}, "one"),
        ("caption", {"caption": ["one"]}, "one"),
        ("caption", {"caption": ""}, ""),
        ("a.b.c", {"a": {"b": {"c": "deep"}}}, "deep"),
        ("a.b", {"a.b": "dotted", "a": {"b": "deep"}}, "dotted"),
    ],
)
def test_the_text_in_a_field(field: str, value: Any, text: str) -> None:
    assert text_in(made(captions(field), {"json": content(value)}).columns["text"][0]) == text


def test_one_of_several_texts_is_drawn_in_each_pass() -> None:
    texts = ["a", "b", "c"]
    members = {"json": content({"captions": texts})}
    drawn = [text_in(made(captions(), members, pass_).columns["text"][0]) for pass_ in range(900)]
    assert drawn[:50] == [text_in(made(captions(), members, pass_).columns["text"][0]) for pass_ in range(50)]
    assert stats.chisquare([drawn.count(text) for text in texts]).pvalue > 1e-3
    # Neither the pass before nor the neighbour tells what comes.
    places = [text_in(made(captions(), members, 0, place).columns["text"][0]) for place in range(900)]
    assert stats.chisquare([places.count(text) for text in texts]).pvalue > 1e-3
    pairs = list(itertools.pairwise(drawn))
    assert stats.chisquare([pairs.count((one, two)) for one in texts for two in texts]).pvalue > 1e-3


def test_query_and_document_are_drawn_apart() -> None:
    texts = ["a", "b"]
    data = data_of(
        query=Query(column="json", field="q", context_length=LENGTH),
        document=Document(column="json", field="d", context_length=LENGTH),
    )
    seen = set()
    for pass_ in range(20):
        columns = made(data, {"json": content({"q": texts, "d": texts})}, pass_).columns
        seen.add((text_in(columns["query"][0]), text_in(columns["document"][0])))
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("text", "texts"),
    [('{"t": "a"}', ["a"]), ('{"t": ["a", "b"]}', ["a", "b"]), ('{"t": []}', []), ('{"t": null}', []), ("[]", [])],
)
def test_texts_of(text: str, texts: list[str]) -> None:
    assert texts_of(text, "t") == texts


# --- negatives ----------------------------------------------------------------------------------------


def negatives(value: Any, pass_: int = 0, place: int = 3) -> list[str]:
    """The negatives of a row that are valid; those that are not are zero and stand behind them."""
    columns = made(NEGATIVES, {**PAIR, "negatives.json": content(value)}, pass_, place).columns
    tokens, valid = columns["negatives"][0], columns["negatives_valid"][0]
    assert (np.diff(valid.astype(int)) <= 0).all()
    assert not tokens[~valid].any()
    return [text_in(row) for row in tokens[valid]]


@pytest.mark.parametrize(
    ("value", "expected"), [([], []), (["a"], ["a"]), (["b", "a"], ["b", "a"]), (["c", "b", "a"], ["c", "b", "a"])]
)
def test_fewer_negatives_leave_masked_ones(value: list[str], expected: list[str]) -> None:
    assert negatives(value) == expected


def test_one_negative_needs_no_list() -> None:
    assert negatives("a") == ["a"]


def test_of_more_negatives_some_are_drawn_without_repeats() -> None:
    many = [str(number) for number in range(7)]
    drawn = [negatives(many, pass_) for pass_ in range(400)]
    assert all(len(set(some)) == 3 and set(some) <= set(many) for some in drawn)
    assert drawn[:20] == [negatives(many, pass_) for pass_ in range(20)]
    for number in range(3):
        counts = [[some[number] for some in drawn].count(text) for text in many]
        assert stats.chisquare(counts).pvalue > 1e-3
    assert negatives(many, 0, place=4) != drawn[0]
