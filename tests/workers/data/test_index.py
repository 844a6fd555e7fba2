"""The index: what was found and counted, shard by shard, in columns and back."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.data.index import Index, fingerprint
from workers.data.scan import Scan
from workers.data.shards import OFFSET_STRIDE
from workers.storage import ObjectInfo

CASES = settings(deadline=None, max_examples=100)


@st.composite
def scans(draw: st.DrawFn) -> Scan:
    """A shard whose tar was read or not, with filters or without."""
    stored = draw(st.integers(0, 3 * OFFSET_STRIDE))
    blocks = draw(st.lists(st.integers(0, 2**32 - 1), max_size=4, unique=True)) if stored else []
    kept = draw(st.none() | st.sets(st.integers(0, stored - 1), max_size=20)) if stored else None
    scan = Scan.of(stored, [512 * block for block in sorted(blocks)], None if kept is None else sorted(kept))
    return replace(scan, beside=draw(st.text("0123456789abcdef", max_size=3)))


def shards_of(count: int) -> list[ObjectInfo]:
    return [ObjectInfo(f"s3://bücket/日本/{n:05d}.tar", 10_000_000_000 + n, f"{n:032x}-24") for n in range(count)]


@given(st.lists(scans(), max_size=6), st.sampled_from(["", '{"filters":[]}']))
@CASES
def test_what_was_counted_comes_back(counted: list[Scan], filters: str) -> None:
    shards = shards_of(len(counted))
    index = Index.of("web", filters, shards, counted)
    assert (index.source, index.filters, len(index)) == ("web", filters, len(shards))
    assert [index.scan(number) for number in range(len(index))] == counted
    for number, (info, scan) in enumerate(zip(shards, counted, strict=True)):
        shard = index.shard(number)
        assert (shard.uri, shard.size, shard.etag, shard.stored) == (info.uri, info.size, info.etag, scan.stored)
        assert shard.offsets.tolist() == (scan.offsets.astype(np.int64) * 512).tolist()
        assert (shard.kept is None) == (scan.kept is None)
        assert shard.samples == scan.samples == index.samples[number]
        assert shard.samples == index.samples[number]


SHARDS = [
    ObjectInfo("s3://b/0.tar", 10, "e0"),
    ObjectInfo("s3://b/é.tar", 20, "e1"),
    ObjectInfo("s3://b/2.tar", 30, ""),
]
INDEX = Index.of("web", "", SHARDS, [Scan.of(3, (0,)), Scan.of(4), Scan.of(300, (512, 2**41 - 512))])
KEPT = ((0, 2), (), tuple(range(9)))
FILTERED = Index.of(
    "web", "f", SHARDS, [Scan.of(stored, (0,), kept) for stored, kept in zip((3, 4, 9), KEPT, strict=True)]
)


def test_columns() -> None:
    assert list(INDEX.uris) == ["s3://b/0.tar", "s3://b/é.tar", "s3://b/2.tar"]
    assert list(INDEX.etags) == ["e0", "e1", ""]
    assert INDEX.sizes.tolist() == [10, 20, 30]
    assert INDEX.stored.tolist() == INDEX.samples.tolist() == [3, 4, 300]
    assert [INDEX.offsets[number].tolist() for number in range(3)] == [[0], [], [1, 2**32 - 1]]
    assert len(INDEX.kept.values) == 0
    assert {column.dtype for column in (INDEX.sizes, INDEX.stored, INDEX.samples)} == {np.dtype(np.int64)}
    assert (INDEX.offsets.values.dtype, INDEX.kept.values.dtype) == (np.uint32, np.uint8)


def test_filters_keep_fewer_samples_than_are_stored() -> None:
    assert FILTERED.stored.tolist() == [3, 4, 9]
    assert FILTERED.samples.tolist() == [2, 0, 9]
    assert [FILTERED.kept[number].tolist() for number in range(3)] == [[0b10100000], [0], [0b11111111, 0b10000000]]


def test_an_index_travels_between_processes() -> None:
    copy = pickle.loads(pickle.dumps(FILTERED))
    assert [copy.scan(number) for number in range(3)] == [FILTERED.scan(number) for number in range(3)]
    assert copy.fingerprint() == FILTERED.fingerprint()


@pytest.mark.parametrize("index", [INDEX, FILTERED])
def test_the_fingerprint_is_of_names_sizes_counts_and_kept_samples(index: Index) -> None:
    content = "web\n0.tar\né.tar\n2.tar".encode()
    for numbers in ([10, 20, 30], index.stored, index.samples):
        content += b"".join(int(number).to_bytes(8, "little") for number in numbers)
    content += bytes(index.kept.values.tolist())
    assert index.fingerprint() == hashlib.sha256(content).hexdigest()


def remade(**changes: Any) -> Index:
    """FILTERED with other lists of what it is made of."""
    made: dict[str, Any] = {
        "source": "web",
        "uris": [shard.uri for shard in SHARDS],
        "sizes": [shard.size for shard in SHARDS],
        "etags": [shard.etag for shard in SHARDS],
        "stored": [3, 4, 9],
        "offsets": [(0,)] * 3,
        "kept": KEPT,
        **changes,
    }
    shards = list(map(ObjectInfo, made["uris"], made["sizes"], made["etags"]))
    scans = list(map(Scan.of, made["stored"], made["offsets"], made["kept"]))
    return Index.of(made["source"], "f", shards, scans[: len(shards)])


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "news"},
        {"uris": ["s3://b/0.tar", "s3://b/e.tar", "s3://b/2.tar"]},
        {"uris": ["s3://b/é.tar", "s3://b/0.tar", "s3://b/2.tar"]},
        {"sizes": [10, 20, 31]},
        {"sizes": [20, 10, 30]},
        {"stored": [3, 5, 9]},
        {"kept": [None, None, None]},
        {"kept": [(0, 1), (), tuple(range(9))]},  # as many, but others
        {"kept": [(0, 2), (), tuple(range(8))]},
        {"uris": ["s3://b/0.tar", "s3://b/é.tar"]},  # one shard less
    ],
)
def test_the_fingerprint_of_other_data_differs(changes: dict[str, Any]) -> None:
    assert remade().fingerprint() == FILTERED.fingerprint()
    assert remade(**changes).fingerprint() != FILTERED.fingerprint()


@pytest.mark.parametrize(
    "changes",
    [
        {"uris": ["file:///copy/0.tar", "/other/é.tar", "2.tar"]},
        {"etags": ["x", "y", "z"]},
        {"offsets": [(0,), (), (512,)]},  # it was read this time, or not
    ],
)
def test_the_fingerprint_of_a_copy_is_the_same(changes: dict[str, Any]) -> None:
    assert remade(**changes).fingerprint() == FILTERED.fingerprint()


def test_the_fingerprint_of_several_sources() -> None:
    other = replace(FILTERED, source="more")
    both = fingerprint([INDEX, other])
    assert fingerprint([INDEX]) == INDEX.fingerprint()
    assert both == hashlib.sha256(f"{INDEX.fingerprint()}\n{other.fingerprint()}".encode()).hexdigest()
    # Their order is that of their slots in a batch.
    assert len({both, fingerprint([other, INDEX]), fingerprint([INDEX]), fingerprint([other])}) == 4
