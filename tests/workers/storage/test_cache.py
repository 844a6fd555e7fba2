"""The cache of ranges: what it gives back, what it drops, and what a disk may do to it."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jobspecs.errors import AccessDeniedError, StorageError
from workers.storage.cache import RangeCache

URI = "s3://b/k"
BLOCK = 1000


def content(number: int, length: int = BLOCK) -> bytes:
    return random.Random(number).randbytes(length)


def put(cache: RangeCache, number: int, etag: str = "v1") -> None:
    cache.put(URI, etag, number, memoryview(content(number)))


def get(cache: RangeCache, number: int, etag: str = "v1", length: int = BLOCK) -> bytes | None:
    buffer = memoryview(bytearray(length))
    return bytes(buffer) if cache.get(URI, etag, number, buffer) else None


def held(folder: Path) -> int:
    """Bytes of everything in the folder, seen while nobody changes it."""
    with (folder / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return sum(entry.stat().st_size for entry in os.scandir(folder))


def ranges(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.range"))


def test_gives_back_what_was_put(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path / "made/for/it", 10_000)
    assert get(cache, 0) is None
    put(cache, 0)
    assert get(cache, 0) == content(0)
    assert get(RangeCache(tmp_path / "made/for/it", 10_000), 0) == content(0)


@pytest.mark.parametrize(
    "key", [("s3://b/other", "v1", 0), (URI, "v2", 0), (URI, "v1", 1), (URI + "\0v1", "0", 0)], ids=str
)
def test_another_key_is_a_miss(tmp_path: Path, key: tuple[str, str, int]) -> None:
    cache = RangeCache(tmp_path, 10_000)
    put(cache, 0)
    assert not cache.get(*key, memoryview(bytearray(BLOCK)))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)


def flip_the_checksum(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [cut, lengthen, flip, flip_the_checksum, zero, lambda path: os.truncate(path, 0)])
def test_a_damaged_range_is_a_miss_and_removed(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    cache = RangeCache(tmp_path, 10_000)
    put(cache, 0)
    damage(ranges(tmp_path)[0])
    assert get(cache, 0) is None
    assert ranges(tmp_path) == []
    put(cache, 0)
    assert get(cache, 0) == content(0)
    assert cache.failures == 0


def test_a_range_of_another_length_is_a_miss(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 10_000)
    put(cache, 0)
    assert get(cache, 0, length=BLOCK - 1) is None


def test_what_was_used_least_recently_goes_first(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 5 * BLOCK)  # four ranges with their checksums
    for number in range(4):
        put(cache, number)
        os.utime(ranges_newest(tmp_path), ns=(number, number))
    assert get(cache, 0) == content(0)
    put(cache, 4)
    assert [get(cache, number) is not None for number in range(5)] == [True, False, True, True, True]
    assert held(tmp_path) <= 5 * BLOCK


def ranges_newest(folder: Path) -> Path:
    return max(ranges(folder), key=lambda path: path.stat().st_mtime_ns)


def test_a_range_that_is_larger_than_the_bound_drives_nothing_out(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 2 * BLOCK)
    put(cache, 0)
    cache.put(URI, "v1", 1, memoryview(content(1, 3 * BLOCK)))
    assert get(cache, 0) == content(0)
    assert len(ranges(tmp_path)) == 1


def test_a_smaller_bound_is_kept_from_the_next_range_on(tmp_path: Path) -> None:
    for number in range(8):
        put(RangeCache(tmp_path, 10 * BLOCK), number)
    put(RangeCache(tmp_path, 3 * BLOCK), 8)
    assert held(tmp_path) <= 3 * BLOCK
    assert get(RangeCache(tmp_path, 3 * BLOCK), 8) == content(8)


@pytest.mark.parametrize("total", [b"", b"torn", bytes(8), b"\xff" * 7 + b"\x7f"])
def test_a_wrong_total_is_corrected(tmp_path: Path, total: bytes) -> None:
    for number in range(3):
        put(RangeCache(tmp_path, 4 * BLOCK), number)
    (tmp_path / "lock").write_bytes(total)
    cache = RangeCache(tmp_path, 4 * BLOCK)
    for number in range(3, 9):
        put(cache, number)
        assert held(tmp_path) <= 4 * BLOCK
        assert get(cache, number) == content(number)


def test_a_total_that_was_torn_meanwhile_is_counted_anew(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 4 * BLOCK)
    for number in range(9):
        put(cache, number)
        (tmp_path / "lock").write_bytes(b"")
        assert get(cache, number) == content(number)
    put(cache, 9)
    assert held(tmp_path) <= 4 * BLOCK


def test_what_a_killed_writer_left_goes_and_a_living_one_s_stays(tmp_path: Path) -> None:
    RangeCache(tmp_path, 10 * BLOCK)
    dead, living = tmp_path / "dead.tmp", tmp_path / "living.tmp"
    dead.write_bytes(b"x" * 5000)
    living.write_bytes(b"x" * 4000)
    with living.open() as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        cache = RangeCache(tmp_path, 10 * BLOCK)
        assert not dead.exists()
        for number in range(9):
            put(cache, number)
            assert held(tmp_path) <= 10 * BLOCK
        assert living.exists()
    put(cache, 9)
    assert not living.exists()


def test_a_folder_that_can_t_be_used_is_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=rf"cannot write file://{tmp_path}/file: a file stands where a folder"):
        RangeCache(tmp_path / "file", 10_000)

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "lock"))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(AccessDeniedError, match=r"Permission denied \(.*/lock\)\. Check the permissions"):
        RangeCache(tmp_path, 10_000)


def test_a_disk_that_is_too_small_is_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(RangeCache(tmp_path, 5000), 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9999, 9000, 999))
    RangeCache(tmp_path, 2000)  # 1,004 bytes are held already
    with pytest.raises(StorageError) as caught:
        RangeCache(tmp_path, 5000)
    for part in (f"file://{tmp_path}", "5,000", "2,003", "Lower data.loader.cache.max_size", "choose another disk"):
        assert part in str(caught.value)


def test_a_disk_that_fails_in_mid_job_only_means_that_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = RangeCache(tmp_path, 10_000)

    def refuse(*_: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full, caplog.at_level(logging.WARNING):
        full.setattr("workers.storage.cache._checksum", refuse)
        for number in range(3):
            put(cache, number)
            assert get(cache, number) is None
    assert cache.failures == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"the cache in {tmp_path} keeps less than it could: No space left on device"
    ]
    assert held(tmp_path) == (tmp_path / "lock").stat().st_size
    put(cache, 0)
    assert get(cache, 0) == content(0)
    shutil.rmtree(tmp_path)
    put(cache, 1)
    assert get(cache, 1) is None
    assert cache.failures == 4
