"""Rows of different lengths against lists of them."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.data.ragged import Ragged, Strings

CASES = settings(deadline=None, max_examples=100)

TEXTS = st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=12), max_size=12)


def rows_of(maximum: int) -> st.SearchStrategy[list[list[int]]]:
    return st.lists(st.lists(st.integers(0, maximum), max_size=9), max_size=9)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.int64])
@given(rows_of(255))
@CASES
def test_rows_come_back(dtype: Any, rows: list[list[int]]) -> None:
    ragged = Ragged.of((np.array(row, np.int64) for row in rows), dtype)
    assert len(ragged) == len(rows)
    assert [ragged[number].tolist() for number in range(len(rows))] == rows
    assert ragged.values.dtype == dtype
    assert ragged.ends.dtype == np.int64
    assert all(ragged[number].dtype == dtype for number in range(len(rows)))


@given(rows_of(2**32 - 1))
@CASES
def test_rows_are_laid_end_to_end(rows: list[list[int]]) -> None:
    ragged = Ragged.of(rows, np.uint32)
    assert ragged.values.tolist() == [value for row in rows for value in row]
    assert ragged.ends.tolist() == [sum(map(len, rows[: number + 1])) for number in range(len(rows))]


def test_a_row_is_a_view() -> None:
    ragged = Ragged.of([[1], [2, 3]], np.uint8)
    assert np.shares_memory(ragged[1], ragged.values)


@pytest.mark.parametrize("rows", [[], [[]], [[1], []]])
def test_a_row_that_is_not_there(rows: list[list[int]]) -> None:
    with pytest.raises(IndexError):
        Ragged.of(rows, np.uint8)[len(rows)]


@given(TEXTS)
@CASES
def test_texts_come_back(texts: list[str]) -> None:
    strings = Strings.of(text for text in texts)
    assert len(strings) == len(texts)
    assert list(strings) == texts
    assert [strings[number] for number in range(len(texts))] == texts


@given(TEXTS)
@CASES
def test_texts_travel_between_processes(texts: list[str]) -> None:
    assert list(pickle.loads(pickle.dumps(Strings.of(texts)))) == texts


def test_texts_are_compact() -> None:
    uris = [f"s3://bucket/laion2B-en/{number:06d}.tar" for number in range(1000)]
    strings = Strings.of(uris)
    assert strings.rows.values.nbytes == sum(map(len, uris))
    assert strings.rows.ends.nbytes == 8 * len(uris)
