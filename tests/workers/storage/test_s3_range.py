"""Ranges of S3 objects: what is asked for, what is not believed, what is tried again and how often."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import workers.storage.s3_range
from jobspecs.errors import AccessDeniedError, ChangedError, DataError, StorageError, UnreachableError
from jobspecs.storage import S3
from tests.faulty_proxy import FaultyProxy
from tests.waiting import until
from tests.workers.storage.scripted_server import SECRET, Answer, Scripted, answers, refusal
from workers.storage import ObjectInfo, Storage
from workers.storage.s3_range import ObjectRanges

URI = "s3://b/k"


@pytest.fixture
def storage(scripted: Scripted, small_ranges: None) -> Storage:
    return Storage(S3(endpoint=scripted.endpoint))


@pytest.fixture
def known(scripted: Scripted) -> ObjectInfo:
    return ObjectInfo(URI, len(scripted.data), scripted.etag)


def read(storage: Storage, known: ObjectInfo) -> bytes:
    with storage.open(URI, known=known) as stream:
        return stream.read()


def in_range_2000(answer: Answer, times: int = 1000) -> Callable[[str, str], Answer | None]:
    """Answers so to the first requests for the range from byte 2000."""
    left = iter(range(times))
    return lambda _, wanted: answer if "=2000-" in wanted and next(left, None) is not None else None


def test_without_an_index_there_is_one_head(scripted: Scripted, storage: Storage) -> None:
    assert storage.read(URI) == scripted.data
    assert scripted.requests == [("HEAD", ""), *(("GET", wanted) for wanted in scripted.ranges)]
    assert scripted.ranges == ["bytes=0-999", "bytes=1000-1999", "bytes=2000-2999", "bytes=3000-3499"]


@pytest.mark.parametrize("start", [0, 1, 2499, 3499, 3500, 9999])
def test_a_known_object_takes_no_request_but_ranges(
    scripted: Scripted, storage: Storage, known: ObjectInfo, start: int
) -> None:
    with storage.open(URI, start, known=known) as stream:
        assert stream.read() == scripted.data[start:]
    assert {method for method, _ in scripted.requests} <= {"GET"}
    assert len(scripted.ranges) == -(-max(0, 3500 - start) // 1000)


def short(count: int) -> Answer:
    """A body that breaks off after `count` bytes of 1000."""
    return 206, {"ETag": '"v1"', "Content-Length": "1000", "Content-Range": "bytes 2000-2999/3500"}, b"x" * count


@pytest.mark.parametrize(
    "answer",
    [
        refusal(503, "SlowDown"),
        refusal(500, "InternalError"),
        refusal(502, "BadGateway"),
        refusal(429, "TooManyRequests"),
        refusal(400, "RequestTimeout"),
        (503, {"Content-Length": "1000"}, b"<Error>"),
        (503, {}, b"<html>The gateway is busy</html>"),
        short(0),
        short(999),
    ],
)
@pytest.mark.parametrize("read_ahead", [0, 3])
def test_what_passes_is_tried_again(
    scripted: Scripted, storage: Storage, known: ObjectInfo, answer: Answer, read_ahead: int
) -> None:
    scripted.behave = in_range_2000(answer, times=7)
    storage = Storage(S3(endpoint=scripted.endpoint), read_ahead=read_ahead)
    assert read(storage, known) == scripted.data
    asked = scripted.ranges
    assert [asked.count(wanted) for wanted in sorted(set(asked))] == [1, 1, 8, 1]


@pytest.mark.parametrize(
    ("answer", "error", "cause"),
    [
        (refusal(503, "SlowDown"), StorageError, "8 × SlowDown (HTTP 503)"),
        (short(300), StorageError, "8 × broken body"),
        ((206, {"ETag": '"v1"'}, b"short"), StorageError, "8 × another length"),
        ((206, {"ETag": '"v1"'}, b""), StorageError, "8 × another length"),
        ((206, {"ETag": '"v1"'}, b"long" * 1000), StorageError, "8 × another length"),
        (
            (206, {"ETag": '"v1"', "Content-Range": "bytes 0-999/3500"}, b"x" * 1000),
            StorageError,
            "8 × another range",
        ),
        (
            (206, {"ETag": '"v1"', "Content-Range": "bytes 2000-2999/3000"}, b"x" * 1000),
            StorageError,
            "8 × another range",
        ),
        (
            (206, {"ETag": '"v1"', "Content-Range": "bytes 2000-2999/3500", "Content-Length": "2"}, b"xx"),
            StorageError,
            "8 × another length",
        ),
    ],
)
def test_what_stays_is_an_error(
    scripted: Scripted, storage: Storage, known: ObjectInfo, answer: Answer, error: type, cause: str
) -> None:
    scripted.behave = in_range_2000(answer)
    with pytest.raises(StorageError) as caught:
        read(storage, known)
    assert type(caught.value) is error
    for part in (f"cannot read {URI}", "bytes 2000-2999 could not be had in 8 attempts", cause, scripted.endpoint):
        assert part in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_causes_are_counted(scripted: Scripted, storage: Storage, known: ObjectInfo) -> None:
    busy = in_range_2000(refusal(503, "SlowDown"), times=5)
    broken = in_range_2000(short(1))
    scripted.behave = lambda method, wanted: busy(method, wanted) or broken(method, wanted)
    with pytest.raises(StorageError, match=r"5 × SlowDown \(HTTP 503\), 3 × broken body"):
        read(storage, known)


def test_a_body_without_a_length_that_ends_early(scripted: Scripted, storage: Storage, known: ObjectInfo) -> None:
    class Broken:
        def read(self, _: int) -> bytes:
            return b""

        def close(self) -> None:
            pass

    def without_length(parsed: dict, **_: object) -> None:
        del parsed["ContentLength"]
        parsed["Body"] = Broken()

    storage._s3._connected.ranges.meta.events.register("after-call.s3.GetObject", without_length)
    with pytest.raises(StorageError, match="8 × broken body"):
        read(storage, known)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (refusal(403, "AccessDenied"), AccessDeniedError, r"access denied \(AccessDenied\)"),
        (refusal(412, "PreconditionFailed"), DataError, "changed or replaced since it was indexed"),
        (refusal(416, "InvalidRange"), DataError, "changed or replaced since it was indexed"),
        ((200, {"ETag": '"v2"', "Content-Range": "bytes 2000-2999/3500"}, b"x" * 1000), DataError, "changed or rep"),
        ((200, {"Content-Range": "bytes 2000-2999/3500"}, b"x" * 1000), DataError, "changed or replaced"),
    ],
)
def test_what_no_attempt_mends_is_told_at_once(
    scripted: Scripted, storage: Storage, known: ObjectInfo, answer: Answer, error: type, words: str
) -> None:
    scripted.behave = in_range_2000(answer)
    with pytest.raises(error, match=f"cannot read {URI}: .*{words}"):
        read(storage, known)
    assert scripted.ranges.count("bytes=2000-2999") == 1


def test_a_whole_object_in_place_of_a_range(scripted: Scripted, storage: Storage, known: ObjectInfo) -> None:
    scripted.behave = lambda *_: (200, {"ETag": '"v1"'}, scripted.data)
    assert read(storage, known) == scripted.data
    assert len(scripted.ranges) == 4


@pytest.mark.parametrize("place", ["s3", "rclone"], indirect=True)
@pytest.mark.usefixtures("small_ranges")
def test_an_object_that_changes_while_it_is_read(place: tuple[Storage, str]) -> None:
    storage, root = place
    uri = f"{root}/x"
    storage.write(uri, b"a" * 3000)
    with storage.open(uri) as stream:
        assert stream.read(10) == b"a" * 10
        storage.write(uri, b"b" * 3000)
        for _ in range(2):
            with pytest.raises(DataError, match=f"cannot read {uri}: it was changed or replaced since it was opened"):
                stream.read()


@pytest.mark.parametrize("place", ["s3", "rclone"], indirect=True)
@pytest.mark.usefixtures("small_ranges")
def test_a_whole_object_that_was_replaced_is_read_anew(
    place: tuple[Storage, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, root = place
    uri, fetch = f"{root}/x", ObjectRanges.fetch
    writes: Iterator[int] = iter(range(4))
    storage.write(uri, b"a" * 3000)

    def replaced(ranges: ObjectRanges, *arguments: Any) -> None:
        if (write := next(writes, None)) is not None:
            storage.write(uri, bytes([write]) * (3001 + write))
        fetch(ranges, *arguments)

    monkeypatch.setattr(ObjectRanges, "fetch", replaced)
    assert storage.read(uri) == bytes([3]) * 3004
    writes = itertools.count()
    with pytest.raises(ChangedError, match=f"cannot read {uri}: it was changed or replaced since it was opened"):
        storage.read(uri)
    assert next(writes) == 5


@pytest.mark.usefixtures("small_ranges")
def test_a_server_that_stalls(s3_server: str, s3_storage: Storage, bucket: str) -> None:
    known = s3_storage.write(f"s3://{bucket}/k", b"x" * 1000)
    with FaultyProxy(s3_server, faults={"stall": 1.0}, faults_per_range=100) as proxy:
        storage = Storage(S3(endpoint=proxy.url, timeout_seconds=0.05))
        with (
            pytest.raises(UnreachableError, match=r"8 attempts: 8 × ReadTimeoutError\. Check the network"),
            storage.open(f"s3://{bucket}/k", known=known) as stream,
        ):
            stream.read()
        # The client gave its last request up, perhaps before the proxy took it.
        until(lambda: proxy.injected["stall"] >= 8, "the last request")
    assert proxy.injected == {"stall": 8}


class Pauses(threading.Event):
    """A stream that is not closed; waits are noted and not waited."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds.append(timeout)
        return False


@pytest.mark.parametrize(("draw", "expected"), [(0.5, [0.5, 1, 2, 4, 8, 15, 15]), (1.0, [1, 2, 4, 8, 16, 30, 30])])
def test_pauses_grow_and_are_random(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch, draw: float, expected: list[float]
) -> None:
    drawn = {(0.5, 1.0): draw}
    monkeypatch.setattr(random, "uniform", lambda low, high: drawn[low, high])
    scripted.behave = answers(503, "SlowDown")
    storage, pauses = Storage(S3(endpoint=scripted.endpoint)), Pauses()
    ranges = ObjectRanges(storage._s3._connected, scripted.endpoint, ObjectInfo(URI, 10, "v1"), "indexed")
    with pytest.raises(StorageError, match="8 attempts"):
        ranges.fetch(0, memoryview(bytearray(10)), pauses)
    assert pauses.seconds == expected


def test_a_closed_stream_waits_for_no_further_attempt(
    scripted: Scripted, known: ObjectInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers.storage.s3_range, "_BACKOFF_SECONDS", 1e9)
    monkeypatch.setattr(workers.storage.s3_range, "_LONGEST_PAUSE_SECONDS", 1e9)
    monkeypatch.setattr("workers.storage.read_ahead.RANGE_BYTES", 1000)
    refused = threading.Event()

    def behave(_: str, wanted: str) -> Answer | None:
        if "=1000-" in wanted:
            refused.set()
            return refusal(503, "SlowDown")
        return None

    scripted.behave = behave
    with Storage(S3(endpoint=scripted.endpoint), read_ahead=1).open(URI, known=known) as stream:
        assert stream.read(10) == scripted.data[:10]
        refused.wait()
