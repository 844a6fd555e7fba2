"""A storage of each scheme, empty."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest

import workers.storage.read_ahead
import workers.storage.s3
import workers.storage.s3_range
from jobspecs.storage import S3
from tests.workers.storage.scripted_server import SECRET, Scripted
from workers.storage import Storage


def new_bucket(storage: Storage) -> str:
    name = f"bucket-{uuid4().hex}"
    storage._s3.client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def s3_storage(s3_server: str) -> Storage:
    return Storage(S3(endpoint=s3_server, region="us-east-1"))


@pytest.fixture
def bucket(s3_storage: Storage) -> str:
    return new_bucket(s3_storage)


@pytest.fixture
def rclone_storage(rclone_server: str) -> Storage:
    return Storage(S3(endpoint=rclone_server, region="us-east-1"))


@pytest.fixture(params=["file", "s3", "rclone"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Storage, str]:
    """A storage and the URI of an empty folder in it."""
    if request.param == "file":
        return Storage(), f"file://{tmp_path}/root"
    storage: Storage = request.getfixturevalue(f"{request.param}_storage")
    return storage, f"s3://{new_bucket(storage)}/root"


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    import botocore.endpoint

    monkeypatch.setattr(botocore.endpoint, "time", SimpleNamespace(sleep=lambda _: None))
    server = Scripted()
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.server.shutdown()
    thread.join()
    server.server.server_close()


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.storage.read_ahead, "RANGE_BYTES", 1000)
    monkeypatch.setattr(workers.storage.s3, "RANGE_BYTES", 1000)
    monkeypatch.setattr(workers.storage.s3_range, "_BACKOFF_SECONDS", 0.0)
