"""Tars, whole and damaged in every way: each place gives one sample, and damage moves none."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable
from typing import Any, BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobspecs.errors import NotFoundError, StorageError
from workers.data.shards import FAULTS, Sample, read_samples
from workers.storage import Storage

URI = "file:///x.tar"
COLUMNS = frozenset({"jpg", "txt"})
COUNT = 4
HEADER = 512
JPG = 700
"""Bytes of a jpg: two blocks. A txt takes one."""
TXT_HEADER = HEADER + 1024
SAMPLE = TXT_HEADER + HEADER + 512
"""Bytes of a sample in the tar."""


class InMemory(Storage):
    """A storage in which every URI holds the same bytes."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.content = content

    def open(self, uri: str, start: int = 0) -> BinaryIO:
        return io.BytesIO(self.content)


def packed(*members: tuple[str, bytes], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def whole_sample(place: int) -> Sample:
    return Sample(f"{place:03}", {"jpg": bytes([place]) * JPG, "txt": b"caption %d" % place})


WHOLE = [whole_sample(place) for place in range(COUNT)]
TAR = packed(
    *((f"{sample.key}.{name}", content) for sample in WHOLE for name, content in sample.columns.items()),
    format=tarfile.USTAR_FORMAT,
)


def read(content: bytes, start: int = 0, stop: int | None = COUNT, columns: frozenset[str] = COLUMNS) -> list[Sample]:
    return list(read_samples(InMemory(content), URI, columns, start, stop))


def cut(at: int) -> Callable[[bytes], bytes]:
    return lambda tar: tar[:at]


def overwritten(at: int, junk: bytes) -> Callable[[bytes], bytes]:
    return lambda tar: tar[:at] + junk + tar[at + len(junk) :]


def test_the_tar_of_these_tests_is_laid_out_as_they_say() -> None:
    with tarfile.open(fileobj=io.BytesIO(TAR)) as tar:
        assert [m.offset for m in tar] == [place * SAMPLE + at for place in range(COUNT) for at in (0, TXT_HEADER)]


def test_a_whole_tar() -> None:
    assert read(TAR) == read(TAR, stop=None) == WHOLE


@pytest.mark.parametrize("start", range(COUNT))
@pytest.mark.parametrize("length", [1, 2])
def test_a_part_of_a_tar(start: int, length: int) -> None:
    stop = min(COUNT, start + length)
    assert read(TAR, start, stop) == WHOLE[start:stop]


# What comes of each place: `ok`, a fault, or `no txt` for a sample without its second member.
DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty object": (cut(0), "unreadable unreadable unreadable unreadable"),
    "no tar": (lambda tar: b"<html>Not found</html>" * 99, "unreadable unreadable unreadable unreadable"),
    "zeros": (lambda tar: bytes(10240), "truncated truncated truncated truncated"),
    "cut in the first header": (cut(100), "unreadable unreadable unreadable unreadable"),
    "cut between samples": (cut(2 * SAMPLE), "ok ok truncated truncated"),
    "cut between members": (cut(2 * SAMPLE + TXT_HEADER), "ok ok no-txt truncated"),
    "cut in a sample's first header": (cut(2 * SAMPLE + 100), "ok ok truncated truncated"),
    "cut in a sample's second header": (cut(2 * SAMPLE + TXT_HEADER + 9), "ok ok no-txt truncated"),
    # Nobody knows whether the member that is cut belongs to the sample before it: that one goes too.
    "cut in a sample's first member": (cut(2 * SAMPLE + HEADER + 9), "ok truncated truncated truncated"),
    "cut in a sample's second member": (
        cut(2 * SAMPLE + TXT_HEADER + HEADER + 3),
        "ok ok truncated truncated",
    ),
    "cut in the padding behind a member": (
        cut(2 * SAMPLE + TXT_HEADER + HEADER + 20),
        "ok ok truncated truncated",
    ),
    "no end marker": (cut(COUNT * SAMPLE), "ok ok ok ok"),
    "first header overwritten": (
        overwritten(0, b"\xff" * HEADER),
        "unreadable unreadable unreadable unreadable",
    ),
    # tarfile takes a header that is none for the end of the tar.
    "a header overwritten": (overwritten(2 * SAMPLE, b"\xff" * HEADER), "ok ok truncated truncated"),
    "one bit of a header": (overwritten(2 * SAMPLE, b"\x01"), "ok ok truncated truncated"),
    "a header zeroed": (overwritten(2 * SAMPLE, bytes(HEADER)), "ok ok truncated truncated"),
    "junk behind the end": (lambda tar: tar + b"junk" * 999, "ok ok ok ok"),
    "gzip": (gzip.compress, "ok ok ok ok"),
    "bzip2": (bz2.compress, "ok ok ok ok"),
    "xz": (lzma.compress, "ok ok ok ok"),
    "gzip, cut in its header": (lambda tar: gzip.compress(tar)[:3], "unreadable " * 4),
    "gzip of nothing": (lambda tar: gzip.compress(b""), "unreadable " * 4),
    "gzip of no tar": (lambda tar: gzip.compress(b"text " * 500), "unreadable " * 4),
}


def outcome(place: int, sample: Sample) -> str:
    if sample.fault is not None:
        assert sample == Sample("", {}, sample.fault)
        return sample.fault
    whole = whole_sample(place)
    if sample == Sample(whole.key, {"jpg": whole.columns["jpg"]}):
        return "no-txt"
    assert sample == whole
    return "ok"


@pytest.mark.parametrize(("damage", "expected"), DAMAGES.values(), ids=DAMAGES)
def test_damaged(damage: Callable[[bytes], bytes], expected: str) -> None:
    samples = read(damage(TAR))
    assert [outcome(place, sample) for place, sample in enumerate(samples)] == expected.split()


def test_a_broken_member_of_compressed_data() -> None:
    content = bytearray(gzip.compress(random.Random(0).randbytes(100) + TAR))
    content[60:80] = bytes(20)
    assert {sample.fault for sample in read(bytes(content))} == {"unreadable"}


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_any_damage_leaves_the_places_before_it(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(TAR) - 1), label="at")
    if data.draw(st.booleans(), label="cut"):
        damaged = TAR[:at]
    else:
        junk = data.draw(st.binary(min_size=1, max_size=600), label="junk")
        damaged = TAR[:at] + junk + TAR[at + len(junk) :]
    samples = read(damaged)
    assert len(samples) == COUNT
    assert all(sample.fault is None or sample.fault in FAULTS for sample in samples)
    # A sample is known to be whole when the first member of the next one was read.
    untouched = COUNT if at >= COUNT * SAMPLE else max(0, at // SAMPLE - 1)
    assert samples[:untouched] == WHOLE[:untouched]
    # The outcome of a place does not depend on the window that asks for it.
    start = data.draw(st.integers(0, COUNT - 1), label="start")
    stop = data.draw(st.integers(start + 1, COUNT), label="stop")
    assert read(damaged, start, stop) == samples[start:stop]


def test_an_index_that_counts_too_many() -> None:
    assert read(TAR, 0, 6) == [*WHOLE, Sample("", fault="truncated"), Sample("", fault="truncated")]
    assert read(TAR, 5, 7) == [Sample("", fault="truncated")] * 2


def test_an_index_that_counts_too_few() -> None:
    assert read(TAR, 0, 2) == WHOLE[:2]


def test_without_a_stop_damage_ends_in_a_fault() -> None:
    damaged = TAR[: 3 * SAMPLE + TXT_HEADER + HEADER + 3]
    assert read(damaged, stop=None) == [*WHOLE[:3], Sample("", fault="truncated")]
    assert read(b"no tar", stop=None) == [Sample("", fault="unreadable")]


def test_a_sample_that_lacks_a_column_keeps_its_place() -> None:
    samples = read(packed(("0.txt", b"zero"), ("1.jpg", b"one"), ("2.json", b"{}"), ("3.txt", b"three")))
    assert [(s.key, s.columns, s.fault) for s in samples] == [
        ("0", {"txt": b"zero"}, None),
        ("1", {"jpg": b"one"}, None),
        ("2", {}, None),
        ("3", {"txt": b"three"}, None),
    ]


def test_only_the_columns_asked_for_come() -> None:
    tar = packed(("0.jpg", b"j"), ("0.pyd", b"\x80"), ("0.txt", b"t"), ("0.seg.jpg", b"s"))
    assert read(tar, stop=1) == [Sample("0", {"jpg": b"j", "txt": b"t"})]
    assert read(tar, stop=1, columns=frozenset({"seg.jpg"})) == [Sample("0", {"seg.jpg": b"s"})]
    assert read(tar, stop=1, columns=frozenset()) == [Sample("0")]


def test_extensions_are_compared_in_lower_case() -> None:
    assert read(packed(("0.JPG", b"j"), ("0.Txt", b"t")), stop=1)[0].columns == {"jpg": b"j", "txt": b"t"}


def test_folders_are_part_of_the_key() -> None:
    tar = packed(("a/0.jpg", b"1"), ("a/0.txt", b"2"), ("b/0.jpg", b"3"), ("b.c/d/0.jpg", b"4"))
    assert [(s.key, sorted(s.columns)) for s in read(tar, stop=3)] == [
        ("a/0", ["jpg", "txt"]),
        ("b/0", ["jpg"]),
        ("b.c/d/0", ["jpg"]),
    ]


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_every_format(layout: int) -> None:
    key = f"{'folder/' * 12}{'n' * 60}"
    assert read(packed((f"{key}.jpg", b"j"), format=layout), stop=1) == [Sample(key, {"jpg": b"j"})]


def test_what_is_no_member_of_a_sample_is_no_sample() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind in (("folder", tarfile.DIRTYPE), ("link.jpg", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type = kind
            tar.addfile(member)
        for name in ("__meta__", "__meta__/0.json", "README", ".hidden.txt", "0.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    assert read(buffer.getvalue(), stop=None) == [Sample("0", {"jpg": b""})]


def test_a_member_that_comes_twice_ends_the_tar() -> None:
    tar = packed(("0.jpg", b"a"), ("1.jpg", b"a"), ("1.jpg", b"b"), ("2.jpg", b"c"))
    assert [sample.fault for sample in read(tar)] == [None, "unreadable", "unreadable", "unreadable"]


def test_members_of_a_sample_that_do_not_stand_together_are_two_samples() -> None:
    tar = packed(("0.jpg", b"a"), ("1.jpg", b"b"), ("0.txt", b"c"))
    assert [sample.key for sample in read(tar, stop=3)] == ["0", "1", "0"]


def test_a_missing_object_is_an_error_not_a_fault() -> None:
    with pytest.raises(NotFoundError, match=r"file:///nowhere/x\.tar"):
        list(read_samples(Storage(), "file:///nowhere/x.tar", COLUMNS, 0, 1))


class Breaking(io.BytesIO):
    """A stream that fails in the middle, as a lost mount does."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > SAMPLE:
            raise StorageError("cannot read s3://b/x.tar: no answer")
        return super().read(size)


def test_a_read_error_is_an_error_not_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    content = packed(*((f"{n}.jpg", bytes(20_000)) for n in range(4)))
    storage = InMemory(content)
    monkeypatch.setattr(storage, "open", lambda uri: Breaking(content))
    with pytest.raises(StorageError) as caught:
        list(read_samples(storage, URI, COLUMNS, 0, 4))
    assert str(caught.value) == "cannot read s3://b/x.tar: no answer"


def test_the_stream_is_closed_however_reading_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [io.BytesIO(content) for content in (TAR, TAR, TAR[:2000], b"no tar")]
    stops = [None, 1, 4, 4]
    for stream, stop in zip(streams, stops, strict=True):
        storage = InMemory(b"")
        monkeypatch.setattr(storage, "open", lambda uri, stream=stream: stream)
        list(read_samples(storage, URI, COLUMNS, 0, stop))
    abandoned = io.BytesIO(TAR)
    monkeypatch.setattr(storage, "open", lambda uri: abandoned)
    samples = read_samples(storage, URI, COLUMNS, 0, 4)
    next(samples)
    samples.close()  # type: ignore[attr-defined]
    assert all(stream.closed for stream in [*streams, abandoned])


def test_reading_tars_imports_no_torch() -> None:
    heavy = ("torch", "transformers", "deepspeed", "ray", "boto3")
    code = f"import sys, workers.data.loader_process; print([m for m in {heavy} if m in sys.modules])"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"
