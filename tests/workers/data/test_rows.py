"""Rows in memory of their own and in shared memory, and the digest of a batch."""

from __future__ import annotations

import mmap
import os
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from jobspecs.columns import Color, Document, Image, Negatives, Query, Text, Weight
from jobspecs.data import Data
from tests.workers.data.samples import data_of
from workers.data.augment import COLOR_PARAMETERS
from workers.data.rows import BadSample, Rows, batch_digest, rows_bytes

PAIRS = data_of(image=Image(size=5), text=Text(context_length=9))
VIEWS = data_of(image=Image(size=3, views=2, color=Color()))
TEXTS = data_of(query=Query(context_length=3), document=Document(context_length=7), negatives=Negatives(count=4))
Expected = dict[str, tuple[tuple[int, ...], type]]
COLUMNS: list[tuple[Data, Expected]] = [
    (PAIRS, {"image": ((1, 5, 5, 3), np.uint8), "image_key": ((), np.int64), "text": ((9,), np.int32)}),
    (
        VIEWS,
        {
            "image": ((2, 3, 3, 3), np.uint8),
            "image_key": ((), np.int64),
            "color": ((2, COLOR_PARAMETERS), np.float32),
        },
    ),
    (
        TEXTS,
        {
            "query": ((3,), np.int32),
            "document": ((7,), np.int32),
            "negatives": ((4, 7), np.int32),
            "negatives_valid": ((4,), np.bool_),
        },
    ),
    (data_of(document=Document(context_length=7)), {"document": ((7,), np.int32)}),
    (data_of(weight=Weight(field="quality")), {"weight": ((), np.float32)}),
    (data_of(), {}),
]


def arrays(rows: Rows) -> dict[str, NDArray[Any]]:
    return {**rows.columns, "ids": rows.ids, "valid": rows.valid}


def filled(count: int, data: Data, seed: int = 0) -> Rows:
    """Rows of which no byte is zero but for those that are false."""
    rows = Rows.empty(count, data)
    random = np.random.default_rng(seed)
    for array in arrays(rows).values():
        array[...] = random.integers(1, 100, array.shape)
    return rows


@pytest.mark.parametrize(("data", "expected"), COLUMNS)
def test_rows_have_the_columns_of_the_spec(data: Data, expected: Expected) -> None:
    rows = Rows.empty(4, data)
    expected = {**expected, "ids": ((), np.int64), "valid": ((), np.bool_)}
    assert {name: (array.shape[1:], array.dtype.type) for name, array in arrays(rows).items()} == expected
    for array in arrays(rows).values():
        assert len(array) == 4
        assert not array.any()
        assert array.flags.c_contiguous
        assert array.flags.writeable


@pytest.mark.parametrize("data", [PAIRS, VIEWS, TEXTS])
def test_no_rows(data: Data) -> None:
    assert all(len(array) == 0 for array in arrays(Rows.empty(0, data)).values())
    assert rows_bytes(0, data) == 0


@given(st.integers(1, 70), st.sampled_from([data for data, _ in COLUMNS]))
def test_arrays_lie_in_the_buffer_at_multiples_of_a_cache_line(count: int, data: Data) -> None:
    size = rows_bytes(count, data)
    buffer = np.zeros(size, np.uint8)
    start = buffer.__array_interface__["data"][0]
    rows = Rows.within(memoryview(buffer), count, data)
    places = sorted((array.__array_interface__["data"][0] - start, array.nbytes) for array in arrays(rows).values())
    assert all(place % 64 == 0 for place, _ in places)
    ends = [place + size for place, size in places]
    assert all(end <= place for end, (place, _) in zip(ends, places[1:], strict=False))
    assert ends[-1] <= size < ends[-1] + 64


def test_a_buffer_that_is_too_small_is_refused() -> None:
    with pytest.raises(TypeError, match="too small"):
        Rows.within(memoryview(bytearray(rows_bytes(4, PAIRS) - 64)), 4, PAIRS)


@pytest.mark.parametrize("data", [PAIRS, VIEWS, TEXTS])
def test_what_one_process_writes_the_other_reads(data: Data) -> None:
    size = rows_bytes(3, data)
    memory = os.memfd_create("rows")
    os.ftruncate(memory, size)
    ours, theirs = (Rows.within(memoryview(mmap.mmap(memory, size)), 3, data) for _ in range(2))
    os.close(memory)
    theirs.place(filled(3, data), np.arange(3))
    for name, array in arrays(ours).items():
        assert (array == arrays(filled(3, data))[name]).all()
    ours.mask(1)
    for name, array in arrays(theirs).items():
        assert array[[0, 2]].all()
        assert array[1].any() == (name == "ids")


@pytest.mark.parametrize("data", [PAIRS, VIEWS, TEXTS])
def test_a_masked_row_is_zero_but_for_its_identity(data: Data) -> None:
    rows = filled(3, data)
    identity = rows.ids[1]
    rows.mask(1)
    for name, array in arrays(rows).items():
        if name != "ids":
            assert not array[1].any()
            assert array[[0, 2]].all()
    assert rows.ids[1] == identity
    assert rows.valid.tolist() == [True, False, True]


@pytest.mark.parametrize("data", [PAIRS, VIEWS, TEXTS])
def test_rows_are_placed_where_they_belong(data: Data) -> None:
    rows, part = filled(6, data, seed=1), filled(3, data, seed=2)
    before = {name: array.copy() for name, array in arrays(rows).items()}
    rows.place(part, np.array([4, 0, 2]))
    for name, array in arrays(rows).items():
        assert (array[[4, 0, 2]] == arrays(part)[name]).all()
        assert (array[[1, 3, 5]] == before[name][[1, 3, 5]]).all()


# --- digest -------------------------------------------------------------------------------------------

IDS = np.array([1, -2, 3], np.int64)
VALID = np.array([True, True, False])


def test_digest_stays_as_it_is() -> None:
    assert batch_digest(IDS, VALID) == "fc84ba04d0d2e50a6a2ee988372b60de"


@pytest.mark.parametrize(
    ("ids", "valid"),
    [
        ([1, 3, -2], [True, False, True]),  # the same pairs in other slots
        ([1, -2, 3], [True, True, True]),
        ([1, -2, 3], [True, False, True]),
        ([1, -2, 4], [True, True, False]),
        ([1, -2], [True, True]),
    ],
)
def test_digest_tells_batches_apart(ids: list[int], valid: list[bool]) -> None:
    assert batch_digest(np.array(ids), np.array(valid)) != batch_digest(IDS, VALID)


def test_digest_does_not_depend_on_memory_layout() -> None:
    expected = batch_digest(IDS, VALID)
    assert batch_digest(IDS.astype(">i8"), VALID) == expected
    assert batch_digest(np.repeat(IDS, 2)[::2], np.repeat(VALID, 2)[::2]) == expected


def test_bad_samples_travel_between_processes() -> None:
    bad = BadSample("file:///x.tar", 3, "k", "truncated")
    assert pickle.loads(pickle.dumps(bad)) == bad
