"""Files: what only they do, and each way they fail with its error and message."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from jobspecs.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    StorageError,
)
from workers.storage import Storage


def test_of_concurrent_conditional_writers_one_wins(tmp_path: Path) -> None:
    storage, start = Storage(), threading.Barrier(16)
    uri = f"file://{tmp_path}/new/lock"

    def compete(writer: int) -> int | None:
        start.wait()
        try:
            storage.write(uri, str(writer).encode(), if_absent=True)
        except AlreadyExistsError:
            return None
        return writer

    with ThreadPoolExecutor(16) as pool:
        winners = [writer for writer in pool.map(compete, range(16)) if writer is not None]
    assert storage.read(uri) == b"".join(str(writer).encode() for writer in winners)
    assert len(winners) == 1
    assert os.listdir(tmp_path / "new") == ["lock"]


def test_readers_see_the_old_object_or_the_new_one(tmp_path: Path) -> None:
    storage, uri = Storage(), f"file://{tmp_path}/x"
    storage.write(uri, b"old")
    with storage.open(uri) as stream:
        storage.write(uri, b"new one")
        assert stream.read() == b"old"


def test_a_failed_write_leaves_the_old_object_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, uri = Storage(), f"file://{tmp_path}/x"
    storage.write(uri, b"old")
    monkeypatch.setattr(os, "fsync", raising(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(StorageError) as caught:
        storage.write(uri, b"new")
    assert "No space left on device" in str(caught.value)
    assert "Free some space" in str(caught.value)
    assert uri in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert storage.read(uri) == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_list_leaves_out_unfinished_files_and_follows_links(tmp_path: Path) -> None:
    storage = Storage()
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/a").write_bytes(b"a")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/linked").symlink_to(tmp_path / "disk")
    (tmp_path / "data/broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "data/.tandem-0123456789abcdef.tmp").write_bytes(b"half")
    assert [info.uri for info in storage.list(f"file://{tmp_path}/data")] == [f"file://{tmp_path}/data/linked/a"]


def raising(error: Exception) -> Callable[..., Any]:
    def function(*_: object, **__: object) -> None:
        raise error

    return function


@pytest.mark.parametrize(
    ("number", "expected", "parts"),
    [
        (errno.EACCES, AccessDeniedError, ["Permission denied", "Check the permissions"]),
        (errno.EPERM, AccessDeniedError, ["Operation not permitted", "Check the permissions"]),
        (errno.EROFS, AccessDeniedError, ["Read-only file system", "Check the permissions"]),
        (errno.EDQUOT, StorageError, ["quota", "Free some space"]),
        (errno.EIO, StorageError, ["Input/output error", "Check the disk and its mount"]),
    ],
)
def test_file_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: type, parts: list[str]
) -> None:
    uri = f"file://{tmp_path}/x"
    monkeypatch.setattr(Path, "mkdir", raising(OSError(number, os.strerror(number), str(tmp_path))))
    with pytest.raises(StorageError) as caught:
        Storage().write(uri, b"x")
    assert type(caught.value) is expected
    for part in [f"cannot write {uri}", str(tmp_path), *parts]:
        assert part in str(caught.value)


def test_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", raising(PermissionError(errno.EPERM, "Operation not permitted")))
    with pytest.raises(StorageError, match=r"cannot create file://.*/x: .*needs hard links"):
        Storage().write(f"file://{tmp_path}/x", b"x", if_absent=True)


def test_files_and_folders_in_each_other_s_place(tmp_path: Path) -> None:
    storage = Storage()
    storage.write(f"file://{tmp_path}/file", b"x")
    storage.write(f"file://{tmp_path}/folder/x", b"x")
    for act in (
        lambda: storage.write(f"file://{tmp_path}/file/x", b"y"),
        lambda: storage.write(f"file://{tmp_path}/file/x/y", b"y"),
        lambda: storage.write(f"file://{tmp_path}/file/x", b"y", if_absent=True),
        lambda: storage.write(f"file://{tmp_path}/folder", b"y"),
        lambda: storage.delete(f"file://{tmp_path}/folder"),
    ):
        with pytest.raises(StorageError, match="a file stands where a folder should, or the reverse") as caught:
            act()
        assert type(caught.value) is StorageError


def test_list_of_an_unreadable_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "scandir", raising(PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(AccessDeniedError, match=f"cannot list file://{tmp_path}"):
        Storage().list(f"file://{tmp_path}")


def test_a_disk_that_fails_while_it_is_read() -> None:
    # Reading the memory of a process from address 0 is an I/O error, and the file is a regular one.
    for read in (lambda stream: stream.read(), lambda stream: stream.read(10)):
        with (
            Storage().open("file:///proc/self/mem") as stream,
            pytest.raises(StorageError, match=r"cannot read file:///proc/self/mem: Input/output error"),
        ):
            read(stream)


def test_what_a_dead_process_left_is_deleted(tmp_path: Path) -> None:
    temporary = tmp_path / "folder" / ".tandem-0123456789abcdef.tmp"
    temporary.parent.mkdir()
    for path in (temporary, temporary.with_name("x")):
        path.write_bytes(b"x")
    Storage().delete_unfinished(f"file://{tmp_path}", 3600.0)
    assert temporary.exists()
    os.utime(temporary, (0, 0))
    Storage().delete_unfinished(f"file://{tmp_path}", 3600.0)
    assert [path.name for path in temporary.parent.iterdir()] == ["x"]
    Storage().delete_unfinished(f"file://{tmp_path}/nothing", 0.0)
