"""Empty rows, and the digest of a batch."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from jobspecs.data import Data, Image, Source, Text
from workers.data.rows import BadSample, Rows, batch_digest

DATA = Data(
    sources=[Source(name="web", urls=["x.tar"])],
    image=Image(size=5),
    text=Text(context_length=9),
)
IDS = np.array([1, -2, 3], np.int64)
VALID = np.array([True, True, False])


def test_empty_rows_are_masked_zeros() -> None:
    rows = Rows.empty(4, DATA)
    assert rows.images.shape == (4, 5, 5, 3)
    assert rows.images.dtype == np.uint8
    assert rows.tokens.shape == (4, 9)
    assert rows.tokens.dtype == np.int32
    assert rows.ids.shape == (4,)
    assert rows.ids.dtype == np.int64
    assert rows.valid.shape == (4,)
    assert rows.valid.dtype == np.bool_
    assert not any(array.any() for array in (rows.images, rows.tokens, rows.ids, rows.valid))


def test_no_rows() -> None:
    assert Rows.empty(0, DATA).images.shape == (0, 5, 5, 3)


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
