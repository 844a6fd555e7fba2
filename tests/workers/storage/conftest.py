"""A storage of each scheme, empty."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

import workers.storage.s3
from jobspecs.storage import S3
from workers.storage import Storage


@pytest.fixture
def s3_storage(s3_server: str) -> Storage:
    return Storage(S3(endpoint=s3_server, region="us-east-1"))


@pytest.fixture
def bucket(s3_storage: Storage) -> str:
    name = f"bucket-{uuid4().hex}"
    s3_storage._s3.client.create_bucket(Bucket=name)
    return name


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Storage, str]:
    """A storage and the URI of an empty folder in it."""
    if request.param == "file":
        return Storage(), f"file://{tmp_path}/root"
    return request.getfixturevalue("s3_storage"), f"s3://{request.getfixturevalue('bucket')}/root"


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.storage.s3, "_RANGE_BYTES", 1000)
    monkeypatch.setattr(workers.storage.s3, "_BACKOFF_SECONDS", 0.0)
