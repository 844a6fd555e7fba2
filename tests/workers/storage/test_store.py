"""Both schemes against one table of behaviour."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from jobspecs.data import Cache
from jobspecs.errors import (
    AlreadyExistsError,
    DataError,
    NotFoundError,
    UsageError,
)
from workers.storage import ObjectInfo, Storage, join


def test_write_stat_read(place: tuple[Storage, str]) -> None:
    storage, root = place
    uri = join(root, "deep/er/x.bin")
    written = storage.write(uri, b"hello")
    assert written == storage.stat(uri) == ObjectInfo(uri, 5, written.etag)
    assert written.etag
    assert '"' not in written.etag
    assert storage.read(uri) == b"hello"
    assert storage.exists(uri)


def test_write_replaces_and_changes_the_etag(place: tuple[Storage, str]) -> None:
    storage, root = place
    uri = join(root, "x")
    first = storage.write(uri, b"one")
    second = storage.write(uri, b"twelve")
    assert storage.read(uri) == b"twelve"
    assert first.etag != second.etag


def test_empty_object(place: tuple[Storage, str]) -> None:
    storage, root = place
    uri = join(root, "empty")
    assert storage.write(uri, b"").size == 0
    assert storage.read(uri) == b""


def test_odd_names(place: tuple[Storage, str]) -> None:
    storage, root = place
    uris = sorted(join(root, name) for name in ("a b+c", "100%25", "é", "q?x=1&y#z"))
    for uri in uris:
        storage.write(uri, uri.encode())
    assert [info.uri for info in storage.list(root)] == uris
    assert all(storage.read(uri) == uri.encode() for uri in uris)


@pytest.mark.parametrize("method", ["stat", "read", "open"])
@pytest.mark.parametrize("name", ["missing", "folder", "folder/x/below-a-file"])
def test_missing(place: tuple[Storage, str], method: str, name: str) -> None:
    storage, root = place
    storage.write(join(root, "folder/x"), b"x")
    uri = join(root, name)
    with pytest.raises(NotFoundError) as caught:
        getattr(storage, method)(uri)
    assert uri in str(caught.value)
    assert not storage.exists(uri)


def test_list(place: tuple[Storage, str]) -> None:
    storage, root = place
    assert storage.list(root) == []
    names = ["shards/1/x", "shards/10", "shards/2", "shards-not", "shards/a/b/c"]
    infos = {name: storage.write(join(root, name), name.encode()) for name in names}
    below = [infos[name] for name in sorted(names) if name.startswith("shards/")]
    assert storage.list(join(root, "shards")) == below
    assert storage.list(join(root, "shards/")) == below
    assert len(storage.list(root)) == 5
    assert storage.list(join(root, "shards"), deep=False) == [infos["shards/10"], infos["shards/2"]]
    assert storage.list(join(root, "shards/2")) == []


@pytest.mark.parametrize("read_ahead", [0, 2])
@pytest.mark.parametrize("start", [0, 1, 999, 1000, 2500, 9999, 10_000, 20_000])
@pytest.mark.usefixtures("small_ranges")
def test_open_from_a_byte(place: tuple[Storage, str], start: int, read_ahead: int) -> None:
    storage, root = place
    data = os.urandom(10_000)
    known = storage.write(join(root, "x"), data)
    storage = Storage(storage._s3._s3, read_ahead=read_ahead)
    with storage.open(join(root, "x"), start) as stream:
        assert stream.read() == data[start:]
        assert stream.read() == b""
    with storage.open(join(root, "x"), start) as stream:
        pieces = [stream.read(7), *iter(lambda: stream.read(777), b"")]
    assert b"".join(pieces) == data[start:]
    with storage.open(join(root, "x"), start, known=known) as stream:
        assert stream.read(3) + stream.read() == data[start:]


def test_an_object_that_is_not_the_known_one(place: tuple[Storage, str]) -> None:
    storage, root = place
    uri = join(root, "x")
    known = storage.write(uri, b"as it was indexed")
    storage.write(uri, b"as it became later")
    with (
        pytest.raises(DataError, match=rf"cannot read {uri}: it was changed or replaced since it was indexed.*Put the"),
        storage.open(uri, known=known) as stream,
    ):
        stream.read()


def test_a_known_object_that_is_gone(place: tuple[Storage, str]) -> None:
    storage, root = place
    uri = join(root, "x")
    known = storage.write(uri, b"x")
    storage.delete(uri)
    with pytest.raises(NotFoundError, match=uri), storage.open(uri, known=known) as stream:
        stream.read()


def test_a_known_object_that_has_moved(place: tuple[Storage, str]) -> None:
    storage, root = place
    known = storage.write(join(root, "x"), b"moved")
    elsewhere = ObjectInfo("s3://where/it/was", known.size, known.etag)
    with storage.open(join(root, "x"), known=elsewhere) as stream:
        assert stream.read() == b"moved"


def test_open_refuses_a_negative_start() -> None:
    with pytest.raises(ValueError, match="start is -1"):
        Storage().open("file:///x", -1)


@pytest.mark.parametrize("place", ["file", "s3"], indirect=True)  # test_s3.py has what rclone does
def test_conditional_write(place: tuple[Storage, str]) -> None:
    storage, root = place
    uri = join(root, "lock")
    storage.write(uri, b"mine", if_absent=True)
    with pytest.raises(AlreadyExistsError) as caught:
        storage.write(uri, b"yours", if_absent=True)
    assert uri in str(caught.value)
    assert storage.read(uri) == b"mine"
    storage.delete(uri)
    storage.write(uri, b"yours", if_absent=True)
    assert [info.uri for info in storage.list(root)] == [uri]


def test_delete(place: tuple[Storage, str]) -> None:
    storage, root = place
    uri = join(root, "x")
    storage.write(uri, b"x")
    storage.delete(uri)
    assert not storage.exists(uri)
    storage.delete(uri)
    storage.delete(join(root, "never/there"))


def test_pickles_before_and_after_use(place: tuple[Storage, str], tmp_path: Path) -> None:
    storage, root = place
    storage = Storage(storage._s3._s3, Cache(folder=str(tmp_path / "cache"), max_size=64 << 20), read_ahead=2)
    uri = join(root, "x")
    before = pickle.loads(pickle.dumps(storage))
    storage.write(uri, b"x")
    known = storage.stat(uri)
    with storage.open(uri, known=known) as stream:
        assert stream.read() == b"x"
    after = pickle.loads(pickle.dumps(storage))
    assert before.read(uri) == after.read(uri) == b"x"
    with after.open(uri, known=known) as stream:
        assert stream.read() == b"x"


@pytest.mark.parametrize("uri", ["data/x", "/data/x", "gs://b/k", "file://host/x", "s3://b", "s3://b/"])
@pytest.mark.parametrize("method", ["stat", "exists", "read", "open", "delete"])
def test_methods_refuse_what_names_no_object(uri: str, method: str) -> None:
    with pytest.raises(UsageError, match="s3://bucket/key"):
        getattr(Storage(), method)(uri)


def test_imports_stay_light() -> None:
    script = (
        "import sys; from workers.storage import Storage; Storage().exists('file:///x');"
        "print({'torch', 'ray', 'boto3', 'botocore'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
