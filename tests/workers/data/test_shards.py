"""Shards, whole and damaged in every way, from any place on: each place gives one sample, damage moves none."""

from __future__ import annotations

import contextlib
import gzip
import io
import random
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import workers.data.shards
from jobspecs.errors import DataError, NotFoundError
from tests.workers.data.tars import InMemory, tar_of
from workers.data.shards import FAULTS, OFFSET_STRIDE, Sample, Shard, extensions, read_samples, read_unindexed
from workers.data.tar_header import parse
from workers.storage import ObjectInfo, Storage

URI = "file:///x.tar"
COLUMNS = (("jpg", "png"), ("txt",))
HEADER = 512
JPG = 700
"""Bytes of a jpg: two blocks. A txt takes one."""
TXT_HEADER = HEADER + 1024
SAMPLE = TXT_HEADER + HEADER + 512
"""Bytes of a sample in the tar."""


class Noting(InMemory):
    """Notes where its streams began."""

    def __init__(self, content: bytes) -> None:
        super().__init__({URI: content})
        self.starts: list[int] = []

    def open(self, uri: str, start: int = 0, *, known: ObjectInfo | None = None) -> BinaryIO:
        assert known is not None
        self.starts.append(start)
        return super().open(uri, start, known=known)


def sample_of(place: int) -> Sample:
    content = random.Random(place).randbytes(JPG)
    return Sample(f"{place:03}", {"jpg": content, "txt": b"caption %d" % place}, place=place)


def members_of(samples: Sequence[Sample]) -> list[tuple[str, bytes]]:
    return [(f"{sample.key}.{name}", content) for sample in samples for name, content in sample.columns.items()]


def shard_of(
    stored: int, size: int = 0, offsets: Sequence[int] = (), kept: Sequence[int] | None = None, etag: str = ""
) -> Shard:
    places = None if kept is None else np.array(kept, np.int64)
    return Shard(URI, size, etag, stored, np.array(offsets, np.int64), places)


def read(tar: bytes, stored: int, columns: tuple[tuple[str, ...], ...] = COLUMNS) -> list[Sample]:
    """Without offsets, as where the count came from a file beside the tar."""
    return list(read_samples(InMemory({URI: tar}), shard_of(stored), columns))


def cut(at: int) -> Callable[[bytes], bytes]:
    return lambda tar: tar[:at]


def overwritten(at: int, junk: bytes) -> Callable[[bytes], bytes]:
    return lambda tar: tar[:at] + junk + tar[at + len(junk) :]


# --- damage of small tars ------------------------------------------------------------------------------

COUNT = 4
WHOLE = [sample_of(place) for place in range(COUNT)]
TAR = tar_of(members_of(WHOLE))
SECOND = 2 * SAMPLE
"""Where the sample at place 2 begins."""

# What comes of each place.
DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (cut(0), "truncated truncated truncated truncated"),
    "no tar": (lambda tar: b"<html>Not found</html>" * 99, "unreadable unreadable unreadable unreadable"),
    "zeros": (lambda tar: bytes(10240), "truncated truncated truncated truncated"),
    "cut in the first header": (cut(100), "truncated truncated truncated truncated"),
    "cut between samples": (cut(SECOND), "ok ok truncated truncated"),
    "cut between members": (cut(SECOND + TXT_HEADER), "ok ok truncated truncated"),
    "cut in a sample's first header": (cut(SECOND + 100), "ok ok truncated truncated"),
    "cut in a sample's second header": (cut(SECOND + TXT_HEADER + 9), "ok ok truncated truncated"),
    "cut in a sample's first member": (cut(SECOND + HEADER + 9), "ok ok truncated truncated"),
    "cut in a sample's last member": (cut(SECOND + TXT_HEADER + HEADER + 3), "ok ok truncated truncated"),
    "cut in the padding behind a member": (cut(SECOND + SAMPLE - 9), "ok ok truncated truncated"),
    "no end": (cut(COUNT * SAMPLE), "ok ok ok ok"),
    "first header overwritten": (overwritten(0, b"\xff" * HEADER), "unreadable unreadable unreadable unreadable"),
    "a first header overwritten": (overwritten(SECOND, b"\xff" * HEADER), "ok ok unreadable unreadable"),
    "a second header overwritten": (
        overwritten(SECOND + TXT_HEADER, b"\xff" * HEADER),
        "ok ok unreadable unreadable",
    ),
    "one bit of a header": (overwritten(SECOND, b"\x01"), "ok ok unreadable unreadable"),
    "a header zeroed": (overwritten(SECOND, bytes(HEADER)), "ok ok truncated truncated"),
    "junk behind the end": (lambda tar: tar + b"junk" * 999, "ok ok ok ok"),
    "gzip": (gzip.compress, "ok ok ok ok"),
    "gzip of nothing": (lambda tar: gzip.compress(b""), "truncated truncated truncated truncated"),
    "gzip, cut": (lambda tar: gzip.compress(tar)[:-1000], "ok ok truncated truncated"),
}


def outcome(sample: Sample) -> str:
    """`ok`, or the fault."""
    assert sample == sample_of(sample.place) or sample.fault
    return sample.fault or "ok"


@pytest.mark.parametrize(("damage", "expected"), DAMAGES.values(), ids=DAMAGES)
def test_damaged(damage: Callable[[bytes], bytes], expected: str) -> None:
    samples = read(damage(TAR), COUNT)
    assert [outcome(sample) for sample in samples] == expected.split()
    assert [sample.place for sample in samples] == list(range(COUNT))


# Members, and what comes of them.
CONTENTS: dict[str, tuple[str, list[tuple[str, str | None]]]] = {
    "no text": ("0.jpg 1.txt 1.jpg", [("0", "missing_column"), ("1", None)]),
    "no image": ("0.txt 1.jpg 1.txt", [("0", "missing_column"), ("1", None)]),
    "another image": ("0.png 0.txt 1.jpg 1.png 1.txt", [("0", None), ("1", None)]),
    "an unknown image": ("0.tiff 0.txt 1.jpg 1.txt", [("0", "missing_column"), ("1", None)]),
    "upper case": ("0.JPG 0.Txt", [("0", None)]),
    "an extension twice": (
        "0.jpg 0.txt 1.jpg 1.jpg 1.txt 2.jpg 2.txt",
        [("0", None), ("1", "unreadable"), ("2", None)],
    ),
    "an unwanted extension twice": ("0.jpg 0.txt 0.json 0.json", [("0", "unreadable")]),
    "members that stand apart": (
        "0.jpg 1.jpg 1.txt 0.txt",
        [("0", "missing_column"), ("1", None), ("0", "missing_column")],
    ),
    "a sample twice": ("0.jpg 0.txt 1.jpg 1.txt 0.jpg 0.txt", [("0", None), ("1", None), ("0", None)]),
    "nested names": ("a/0.jpg a/0.txt a/b/0.jpg a/b/0.txt 0.jpg 0.txt", [("a/0", None), ("a/b/0", None), ("0", None)]),
    "members of no sample": ("README .x.txt __meta__/0.txt 0.jpg LICENSE 0.txt", [("0", None)]),
}


@pytest.mark.parametrize(("members", "expected"), CONTENTS.values(), ids=CONTENTS)
def test_sound_tars_with_odd_contents(members: str, expected: list[tuple[str, str | None]]) -> None:
    tar = tar_of([(name, name.encode()) for name in members.split()])
    samples = read(tar, len(expected))
    assert [(sample.key, sample.fault) for sample in samples] == expected
    assert list(read_unindexed(InMemory({URI: tar}), ObjectInfo(URI, len(tar), ""), COLUMNS)) == samples


def test_a_sample_holds_the_members_asked_for() -> None:
    tar = tar_of([("0.jpg", b"j"), ("0.pyd", b"\x80"), ("0.seg.png", b"s")])
    assert read(tar, 1, (("jpg",),)) == [Sample("0", {"jpg": b"j"}, place=0)]
    assert read(tar, 1, (("seg.png", "png"),)) == [Sample("0", {"seg.png": b"s"}, place=0)]
    assert read(tar, 1, ()) == [Sample("0", place=0)]


def test_a_column_is_the_first_alternative_that_is_there() -> None:
    (sample,) = read(tar_of([("0.png", b"p"), ("0.jpg", b"j"), ("0.txt", b"t")]), 1)
    assert sample.column(("webp", "jpg", "png")) == b"j"
    assert sample.column(extensions("PNG;jpg")) == b"p"
    assert sample.column(("webp",)) is None


def test_a_count_that_is_too_high() -> None:
    assert read(TAR, COUNT + 2) == [*WHOLE, *(Sample("", fault="truncated", place=COUNT + n) for n in range(2))]


def test_a_count_that_is_too_low() -> None:
    assert read(TAR, 2) == WHOLE[:2]


def unindexed(tar: bytes) -> list[Sample]:
    storage = InMemory({URI: tar})
    samples = list(read_unindexed(storage, ObjectInfo(URI, len(tar), ""), COLUMNS))
    assert storage.open_now == 0
    return samples


def test_without_an_index_damage_ends_in_a_fault() -> None:
    assert unindexed(TAR) == WHOLE
    assert unindexed(TAR[: 3 * SAMPLE]) == [*WHOLE[:3], Sample("", fault="truncated", place=3)]
    assert unindexed(b"no tar") == [Sample("", fault="truncated", place=0)]
    # A sample that lost its text, and the damage itself.
    lost = Sample("003", {"jpg": WHOLE[3].columns["jpg"]}, "truncated", 3)
    assert unindexed(TAR[: 3 * SAMPLE + TXT_HEADER]) == [*WHOLE[:3], lost, Sample("", fault="truncated", place=4)]


# --- offsets, kept places and recovery, in a tar of some strides ---------------------------------------

STORED = 2 * OFFSET_STRIDE + 88
LONG = [sample_of(place) for place in range(STORED)]
LONG_TAR = tar_of(members_of(LONG))
OFFSETS = range(0, STORED * SAMPLE, OFFSET_STRIDE * SAMPLE)
PLACES = st.integers(0, STORED - 1) | st.sampled_from([0, 255, 256, 257, 511, 512, 513, STORED - 1])
KEPT = st.none() | st.sets(PLACES, max_size=30).map(sorted) | st.sampled_from([[], range(1, STORED, 2), range(STORED)])

RUNS = settings(deadline=None, max_examples=60)


@pytest.fixture(params=["jumps", "reads over"], scope="module")
def jumps(request: pytest.FixtureRequest) -> bool:
    """Whether bytes that are not needed are jumped over, few as they are here."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "jumps":
            patch.setattr(workers.data.shards, "_JUMP_BYTES", 0)
        yield request.param == "jumps"


@RUNS
@given(PLACES | st.just(STORED), KEPT, st.booleans())
def test_any_start_gives_what_reading_from_the_first_sample_gives(
    jumps: bool, start: int, kept: Sequence[int] | None, has_offsets: bool
) -> None:
    places = range(STORED) if kept is None else kept
    storage = Noting(LONG_TAR)
    shard = shard_of(STORED, offsets=OFFSETS if has_offsets else (), kept=kept)
    assert list(read_samples(storage, shard, COLUMNS, start)) == [LONG[place] for place in places[start:]]
    assert storage.open_now == 0

    # Not a byte before the place from which the index knows the way.
    first = next(iter(places[start:]), None)
    if first is None:
        assert storage.starts == []
    elif not has_offsets:
        assert storage.starts == [0]
    else:
        assert storage.starts[0] == first // OFFSET_STRIDE * OFFSET_STRIDE * SAMPLE
        assert set(storage.starts) <= set(OFFSETS)
        assert jumps or len(storage.starts) == 1


def test_the_first_sample_behind_an_offset_needs_no_other_byte() -> None:
    storage = Noting(LONG_TAR)
    samples = read_samples(storage, shard_of(STORED, offsets=OFFSETS), COLUMNS, 300)
    assert next(samples) == LONG[300]
    # It ends where the next one's first member has been read.
    assert storage.bytes_read <= (300 - 256 + 1) * SAMPLE + TXT_HEADER
    samples.close()
    assert storage.open_now == 0


def test_far_places_are_jumped_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.data.shards, "_JUMP_BYTES", 200 * SAMPLE)
    storage = Noting(LONG_TAR)
    kept = [0, 250, 260, 599]
    assert list(read_samples(storage, shard_of(STORED, offsets=OFFSETS, kept=kept), COLUMNS)) == [LONG[p] for p in kept]
    # 256 is just ahead of 250, and 512 is far from 260.
    assert storage.starts == [0, 512 * SAMPLE]


@RUNS
@given(PLACES, st.sampled_from([0, TXT_HEADER]), KEPT, st.integers(0, 5) | PLACES)
@example(255, TXT_HEADER, None, 0)  # right before a known place
@example(256, 0, None, 0)  # right at one
def test_damage_costs_the_samples_up_to_the_next_known_place(
    jumps: bool, place: int, member: int, kept: Sequence[int] | None, start: int
) -> None:
    tar = overwritten(place * SAMPLE + member, b"\xff" * HEADER)(LONG_TAR)
    lost = range(place, min(STORED, (place // OFFSET_STRIDE + 1) * OFFSET_STRIDE))
    places = (range(STORED) if kept is None else kept)[start:]
    samples = list(read_samples(Noting(tar), shard_of(STORED, offsets=OFFSETS, kept=kept), COLUMNS, start))
    assert [sample.place for sample in samples] == list(places)
    for sample in samples:
        assert (sample.fault == "unreadable") if sample.place in lost else (sample == LONG[sample.place])


def test_damage_costs_everything_behind_it_without_offsets() -> None:
    samples = read(overwritten(100 * SAMPLE, b"\xff")(LONG_TAR), STORED)
    assert samples[:100] == LONG[:100]
    assert {sample.fault for sample in samples[100:]} == {"unreadable"}


@pytest.mark.parametrize("place", [3, 254, 255, 256])
def test_a_damaged_name_moves_no_sample_behind_the_next_known_place(place: int) -> None:
    """Long names are under no checksum: another one makes two samples of one, or one of two."""
    long = "n" * 200
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members_of(LONG[:600]):
            member = tarfile.TarInfo(f"{long}{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    content = buffer.getvalue()
    offsets = [content.index(f"{long}{known:03}.jpg".encode()) - HEADER for known in (0, 256, 512)]
    whole = [Sample(long + sample.key, sample.columns, place=sample.place) for sample in LONG[:600]]
    shard = shard_of(600, offsets=offsets)
    assert list(read_samples(Noting(content), shard, COLUMNS)) == whole

    def renamed(new: str) -> bytes:
        # Both members become those of the next sample, or the text becomes that of no sample.
        old = [f"{long}{place:03}.{name}".encode() for name in (["jpg", "txt"] if new != "999" else ["txt"])]
        damaged = content
        for name in old:
            damaged = damaged.replace(name, long.encode() + new.encode() + name[-4:])
        return damaged

    for new in ("999", f"{place + 1:03}"):
        samples = list(read_samples(Noting(renamed(new)), shard, COLUMNS))
        known = (place // 256 + 1) * 256
        assert samples[:place] == whole[:place]
        assert samples[known:] == whole[known:]
        assert [sample.place for sample in samples] == list(range(600))


def written(changes: Sequence[tuple[int, bytes]], at: int | None) -> bytes:
    damaged = bytearray(LONG_TAR)
    for start, junk in changes:
        damaged[start : start + len(junk)] = junk[: len(damaged) - start]
    return bytes(damaged[:at])


def any_other_header(tar: bytes) -> bool:
    """Whether a header says something else now and is valid, as its checksum is but a sum."""
    for at in (sample + member for sample in range(0, STORED * SAMPLE, SAMPLE) for member in (0, TXT_HEADER)):
        now, before = tar[at : at + HEADER], LONG_TAR[at : at + HEADER]
        if len(now) == HEADER and now != before:
            with contextlib.suppress(ValueError):
                if parse(now) != parse(before):
                    return True
    return False


JUNK = st.binary(min_size=1, max_size=1) | st.binary(min_size=1, max_size=700) | st.integers(1, 3000).map(bytes)
BYTES = st.integers(0, STORED * SAMPLE - 1)
NEAR_HEADERS = st.builds(
    lambda place, member, byte: place * SAMPLE + member + byte,
    PLACES,
    st.sampled_from([0, TXT_HEADER]),
    st.integers(0, HEADER - 1),
)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(BYTES | NEAR_HEADERS, JUNK), max_size=4),
    st.none() | BYTES | NEAR_HEADERS,
    st.booleans(),
    PLACES,
    KEPT,
)
def test_no_damage_raises_or_moves_or_alters_a_sample(
    changes: list[tuple[int, bytes]], at: int | None, has_offsets: bool, start: int, kept: Sequence[int] | None
) -> None:
    tar = written(changes, at)
    assume(not any_other_header(tar))
    offsets = OFFSETS if has_offsets else ()
    samples = list(read_samples(Noting(tar), shard_of(STORED, offsets=offsets), COLUMNS))
    assert [sample.place for sample in samples] == list(range(STORED))
    for sample in samples:
        begin = sample.place * SAMPLE + HEADER
        # What stands in its place now, be it damaged: no other sample's.
        jpg, txt = tar[begin : begin + JPG], tar[begin + TXT_HEADER : begin + TXT_HEADER + len(b"caption 100")]
        if sample.fault is None:
            whole = LONG[sample.place]
            assert (sample.key, sample.columns["jpg"]) == (whole.key, jpg)
            assert sample.columns["txt"] == txt[: len(whole.columns["txt"])]
        assert sample.fault in (None, *FAULTS)
    # Neither does it depend on what else is read.
    shard = shard_of(STORED, offsets=offsets, kept=kept)
    places = (range(STORED) if kept is None else kept)[start:]
    assert list(read_samples(Noting(tar), shard, COLUMNS, start)) == [samples[place] for place in places]


OTHERS = {
    "gnu": (tarfile.GNU_FORMAT, lambda tar: tar),
    "pax": (tarfile.PAX_FORMAT, lambda tar: tar),
    "gzip": (tarfile.USTAR_FORMAT, gzip.compress),
}


@pytest.mark.parametrize("kind", OTHERS)
@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_no_damage_of_other_tars_raises(kind: str, data: st.DataObject) -> None:
    layout, compress = OTHERS[kind]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=layout) as tar:
        for place in range(6):
            # Names for which these formats need a header of their own.
            tar.addfile(tarfile.TarInfo(f"{'n' * (50 if kind == 'gzip' else 200)}é{place}.jpg"))
    content = compress(buffer.getvalue())
    bytes_of = st.integers(0, len(content) - 1)
    for at, junk in data.draw(st.lists(st.tuples(bytes_of, st.binary(min_size=1, max_size=4)), max_size=6)):
        content = content[:at] + junk + content[at + len(junk) :]
    content = content[: data.draw(st.none() | bytes_of)]
    samples = read(content, 6, (("jpg",),))
    assert [sample.place for sample in samples] == list(range(6))
    assert {sample.fault for sample in samples} <= {None, *FAULTS}


# --- storage -------------------------------------------------------------------------------------------


def test_a_missing_object_is_an_error_not_a_fault() -> None:
    with pytest.raises(NotFoundError, match=r"file:///x\.tar"):
        list(read_samples(Storage(), shard_of(4), COLUMNS))


@pytest.mark.parametrize(("size", "etag"), [(1, None), (None, "another")])
def test_another_shard_than_the_indexed_one_is_an_error(tmp_path: Path, size: int | None, etag: str | None) -> None:
    (tmp_path / "x.tar").write_bytes(TAR)
    info = Storage().stat(f"file://{tmp_path}/x.tar")
    no_offsets = np.empty(0, np.int64)
    shard = Shard(info.uri, size or info.size, etag or info.etag, COUNT, no_offsets, None)
    with pytest.raises(DataError, match=r"x\.tar"):
        list(read_samples(Storage(), shard, COLUMNS))
    sound = Shard(info.uri, info.size, info.etag, COUNT, no_offsets, None)
    assert list(read_samples(Storage(), sound, COLUMNS)) == WHOLE


def test_the_stream_is_closed_however_reading_ends() -> None:
    for tar in (TAR, TAR[:2000], b"no tar"):
        storage = Noting(tar)
        list(read_samples(storage, shard_of(COUNT), COLUMNS))
        assert (storage.opened, storage.open_now) == (1, 0)
    storage = Noting(TAR)
    samples = read_samples(storage, shard_of(COUNT), COLUMNS)
    next(samples)
    assert storage.open_now == 1
    samples.close()
    assert storage.open_now == 0
