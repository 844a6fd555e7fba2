"""The stream of ranges: the right bytes for any reader, what is fetched and held when, and how it ends."""

from __future__ import annotations

import gc
import io
import random
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.storage.read_ahead import RANGE_BYTES, RangeStream

SIZE = 100


class Ranges:
    """Ranges of ten bytes of an object of SIZE bytes."""

    def __init__(self) -> None:
        self.data = random.Random(0).randbytes(SIZE)
        self.begun: list[int] = []
        """First bytes of the ranges that are, or were, fetched."""
        self.gate = threading.Event()
        """No range comes before it is set."""
        self.gate.set()
        self.fails: set[int] = set()
        self.ended: list[int] = []

    def __call__(self, first: int, buffer: memoryview, closing: threading.Event) -> None:
        self.begun.append(first)
        while not self.gate.wait(0.001):
            if closing.is_set():
                self.ended.append(first)
                raise InterruptedError
        if first in self.fails:
            raise OSError(f"range {first}")
        buffer[:] = self.data[first : first + len(buffer)]


@pytest.fixture(autouse=True)
def ranges_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.storage.read_ahead.RANGE_BYTES", 10)


def fetching() -> int:
    return sum(thread.name == "tandem-range" for thread in threading.enumerate())


def wait_for_what_is_fetched() -> None:
    for thread in threading.enumerate():
        if thread.name == "tandem-range":
            thread.join()


@given(
    start=st.integers(0, SIZE + 5),
    size=st.integers(0, SIZE),
    read_ahead=st.integers(0, 4),
    aligned=st.booleans(),
    buffer=st.integers(1, 40),
    reads=st.lists(st.integers(0, 45), max_size=12),
)
def test_any_reader_gets_the_bytes(
    start: int, size: int, read_ahead: int, aligned: bool, buffer: int, reads: list[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workers.storage.read_ahead.RANGE_BYTES", 10)
        ranges = Ranges()
        with io.BufferedReader(RangeStream(ranges, start, size, read_ahead, aligned=aligned), buffer) as stream:
            got = b"".join([*(stream.read(count) for count in reads), stream.read()])
        assert got == ranges.data[start:size]
        assert len(ranges.begun) == len(set(ranges.begun))
        assert all(first % 10 == (0 if aligned else start % 10) for first in ranges.begun)
        assert fetching() == 0


@pytest.mark.parametrize("read_ahead", [0, 1, 3])
def test_no_more_ranges_are_begun_than_may_be_held(read_ahead: int) -> None:
    ranges = Ranges()
    with RangeStream(ranges, 0, SIZE, read_ahead, aligned=False) as stream:
        assert ranges.begun == []
        for consumed in range(SIZE):
            assert stream.read(1) == ranges.data[consumed : consumed + 1]
            expected = min(consumed // 10 + 1 + read_ahead, SIZE // 10)
            assert len(ranges.begun) <= expected
            assert fetching() + len(ranges.begun) >= expected  # those behind are begun or about to begin


def test_buffers_are_used_again() -> None:
    ranges, seen = Ranges(), set()

    def fetch(first: int, buffer: memoryview, closing: threading.Event) -> None:
        seen.add(id(buffer.obj))
        ranges(first, buffer, closing)

    with RangeStream(fetch, 0, 97, 2, aligned=False) as stream:
        assert stream.readall() == ranges.data[:97]
    assert len(seen) == 3


def test_closing_early_ends_what_is_fetched_and_begins_nothing() -> None:
    ranges = Ranges()
    stream = RangeStream(ranges, 0, SIZE, 3, aligned=False)
    assert stream.read(10) == ranges.data[:10]
    wait_for_what_is_fetched()
    ranges.gate.clear()
    assert stream.read(10) == ranges.data[10:20]  # it has come already; the one that begins now does not come
    stream.close()
    assert fetching() == 0
    assert ranges.ended == [40]
    assert len(ranges.begun) == 5


@pytest.mark.parametrize("read_ahead", [0, 1, 5])
def test_a_range_that_failed_is_never_passed_over(read_ahead: int) -> None:
    ranges = Ranges()
    ranges.fails = {20}
    with io.BufferedReader(RangeStream(ranges, 0, SIZE, read_ahead, aligned=False), 4) as stream:
        assert stream.read(20) == ranges.data[:20]
        for _ in range(2):
            with pytest.raises(OSError, match="range 20"):
                stream.read(1)


def test_a_forgotten_stream_is_collected_and_its_threads_end() -> None:
    ranges = Ranges()
    stream = io.BufferedReader(RangeStream(ranges, 0, SIZE, 2, aligned=False), 4)
    stream.read(10)
    wait_for_what_is_fetched()
    ranges.gate.clear()
    stream.read(4)
    assert fetching() == 1
    del stream
    gc.collect()
    assert fetching() == 0


@pytest.mark.parametrize("forgotten", ["stream = open_one()", "sys.stream = open_one()", "open_one()"])
def test_a_stream_that_is_still_open_does_not_keep_the_process_alive(forgotten: str) -> None:
    script = f"""
import io, sys, threading, time
from workers.storage.read_ahead import RANGE_BYTES, RangeStream
def fetch(first, buffer, closing):
    if first and not sys.is_finalizing():
        closing.wait(3600)
def open_one():
    stream = io.BufferedReader(RangeStream(fetch, 0, 5 * RANGE_BYTES, 2, aligned=False))
    stream.read(1)
    return stream
{forgotten}
print("the end")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout, done.stderr) == ("the end\n", "")


def test_ranges_are_of_the_size_that_the_documentation_says() -> None:
    assert RANGE_BYTES == 8 << 20
