"""Large objects go up in parts, through faults too, and leave nothing behind when they don't arrive."""

from __future__ import annotations

import random
from typing import Any

import pytest

import workers.storage.s3
import workers.storage.s3_upload
from jobspecs.errors import NotFoundError, StorageError
from jobspecs.storage import S3
from tests.faulty_proxy import FaultyProxy
from tests.workers.storage.conftest import new_bucket
from workers.storage import Storage

DATA = random.Random(3).randbytes((11 << 20) + 7)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest that S3 allows."""
    monkeypatch.setattr(workers.storage.s3, "MULTIPART_BYTES", 6 << 20)
    monkeypatch.setattr(workers.storage.s3_upload, "PART_BYTES", 5 << 20)


def parts_of(requests: list[tuple[str, str, str]]) -> list[str]:
    return [method for method, _, _ in requests if method in ("PUT", "POST")]


@pytest.mark.parametrize("server", ["s3_server", "rclone_server"])
def test_arrives_in_parts(request: pytest.FixtureRequest, server: str) -> None:
    with FaultyProxy(request.getfixturevalue(server)) as proxy:
        storage = Storage(S3(endpoint=proxy.url, region="us-east-1"))
        uri = f"s3://{new_bucket(storage)}/k"
        proxy.requests.clear()
        info = storage.write(uri, memoryview(DATA))
        assert sorted(parts_of(proxy.requests)) == ["POST", "POST", "PUT", "PUT", "PUT"]
        assert info == storage.stat(uri)
        assert storage.read(uri) == DATA


def test_faults_of_single_parts_are_no_faults_of_the_object(s3_server: str) -> None:
    with FaultyProxy(s3_server, seed=1, faults={"slow_down": 0.3, "drop": 0.3}, methods=("PUT", "POST")) as proxy:
        storage = Storage(S3(endpoint=proxy.url, region="us-east-1"))
        uri = f"s3://{new_bucket(Storage(S3(endpoint=s3_server)))}/k"
        storage.write(uri, DATA)
        assert proxy.injected["slow_down"] + proxy.injected["drop"] > 0
        assert storage.read(uri) == DATA


def test_an_upload_that_fails_leaves_no_parts(
    s3_storage: Storage, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, real = s3_storage._s3.client, s3_storage._s3.client.upload_part

    def upload_part(**arguments: Any) -> Any:
        if arguments["PartNumber"] == 2:
            raise OSError(28, "No space left on device")
        return real(**arguments)

    monkeypatch.setattr(client, "upload_part", upload_part)
    with pytest.raises(StorageError, match=rf"cannot write s3://{bucket}/k: No space left on device"):
        s3_storage.write(f"s3://{bucket}/k", DATA)
    assert not s3_storage.exists(f"s3://{bucket}/k")
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)


def test_a_missing_bucket_is_named(s3_storage: Storage) -> None:
    with pytest.raises(NotFoundError, match="there is no bucket 'no-such-bucket'"):
        s3_storage.write("s3://no-such-bucket/k", DATA)


def test_another_size_than_was_sent_is_an_error(
    s3_storage: Storage, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers.storage.s3, "upload", lambda client, bucket, key, data: None)
    uri = f"s3://{bucket}/k"
    s3_storage.write(uri, b"another's")
    with pytest.raises(StorageError, match=rf"cannot write {uri}: {len(DATA)} bytes were sent, http.* has 9\."):
        s3_storage.write(uri, DATA)


def test_a_condition_holds_whatever_the_size(s3_storage: Storage, bucket: str) -> None:
    uri = f"s3://{bucket}/k"
    s3_storage.write(uri, b"first", if_absent=True)
    with pytest.raises(StorageError, match="there is an object already"):
        s3_storage.write(uri, DATA, if_absent=True)


def test_parts_that_a_dead_process_left_are_deleted(s3_storage: Storage, bucket: str) -> None:
    client = s3_storage._s3.client

    def begun() -> list[str]:
        return [upload["Key"] for upload in client.list_multipart_uploads(Bucket=bucket)["Uploads"]]

    for key in ("elsewhere/x", "run/checkpoints/x"):
        client.create_multipart_upload(Bucket=bucket, Key=key)
    s3_storage.delete_unfinished(f"s3://{bucket}/run/checkpoints", 1e10)  # moto's began in 2010
    assert sorted(begun()) == ["elsewhere/x", "run/checkpoints/x"]
    s3_storage.delete_unfinished(f"s3://{bucket}/run/checkpoints", 3600.0)
    assert begun() == ["elsewhere/x"]
