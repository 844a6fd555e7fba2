"""S3: what only it does, and each failure of a request with its error and message."""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from jobspecs.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    NoCredentialsError,
    NotFoundError,
    StorageError,
    TandemError,
    UnreachableError,
)
from jobspecs.storage import S3
from tests.workers.storage.conftest import new_bucket
from tests.workers.storage.scripted_server import SECRET, Answer, Scripted, answers, refusal
from workers.storage import ObjectInfo, Storage
from workers.storage.s3 import is_aws


@pytest.mark.parametrize("place", ["s3", "rclone"], indirect=True)
def test_list_of_several_pages(place: tuple[Storage, str]) -> None:
    storage, root = place

    def two_a_page(params: dict[str, Any], **_: object) -> None:
        params["MaxKeys"] = 2

    storage._s3.client.meta.events.register("before-parameter-build.s3.ListObjectsV2", two_a_page)
    infos = [storage.write(f"{root}/folder/{name}", b"") for name in "abcde"]
    assert storage.list(f"{root}/folder") == infos


def test_one_client_for_all_threads(s3_storage: Storage) -> None:
    with ThreadPoolExecutor(8) as pool:
        clients = {id(client) for client in pool.map(lambda _: s3_storage._s3.client, range(64))}
    assert len(clients) == 1


@pytest.mark.parametrize(
    ("method", "arguments"), [("stat", ()), ("read", ()), ("write", (b"x",)), ("list", ()), ("delete", ())]
)
def test_a_missing_bucket_is_named(s3_storage: Storage, method: str, arguments: tuple[bytes, ...]) -> None:
    with pytest.raises(NotFoundError) as caught:
        getattr(s3_storage, method)("s3://no-such-bucket/k", *arguments)
    assert "there is no bucket 'no-such-bucket' at http://127.0.0.1" in str(caught.value)
    assert "s3://no-such-bucket/k" in str(caught.value)


def test_a_missing_object_is_not_a_missing_bucket(s3_storage: Storage, bucket: str) -> None:
    with pytest.raises(NotFoundError, match=rf"cannot look up s3://{bucket}/k: there is no such object"):
        s3_storage.stat(f"s3://{bucket}/k")


def test_list_leaves_out_the_folders_of_consoles(s3_storage: Storage, bucket: str) -> None:
    s3_storage._s3.client.put_object(Bucket=bucket, Key="folder/", Body=b"")
    s3_storage.write(f"s3://{bucket}/folder/x", b"x")
    assert [info.uri for info in s3_storage.list(f"s3://{bucket}")] == [f"s3://{bucket}/folder/x"]


@pytest.mark.parametrize(
    ("status", "code", "expected", "parts"),
    [
        (403, "AccessDenied", AccessDeniedError, ["access denied (AccessDenied)", "'b'", "may write"]),
        (403, "SignatureDoesNotMatch", AccessDeniedError, ["(SignatureDoesNotMatch)", "are valid"]),
        (400, "ExpiredToken", AccessDeniedError, ["(ExpiredToken)", "credentials are valid"]),
        (503, "SlowDown", StorageError, ["answered SlowDown (HTTP 503)", "Look the code up"]),
        (400, "AuthorizationHeaderMalformed", StorageError, ["codes about a region mean storage.s3.region"]),
    ],
)  # fmt: skip
def test_refusals(scripted: Scripted, status: int, code: str, expected: type, parts: list[str]) -> None:
    scripted.behave = answers(status, code)
    with pytest.raises(StorageError) as caught:
        Storage(S3(endpoint=scripted.endpoint)).write("s3://b/k", b"x")
    assert type(caught.value) is expected
    for part in ["cannot write s3://b/k", *parts]:
        assert part in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is not None
    assert len(scripted.requests) == (5 if status == 503 else 1)


@pytest.mark.parametrize("there", [True, False])
def test_exists_is_one_request(scripted: Scripted, there: bool) -> None:
    storage = Storage(S3(endpoint=scripted.endpoint))
    if not there:
        scripted.behave = answers(404, "NoSuchKey")
    assert storage.exists("s3://b/k") is there
    assert scripted.requests == [("HEAD", "")]


def test_exists_in_a_missing_bucket(s3_storage: Storage) -> None:
    assert not s3_storage.exists("s3://no-such-bucket/k")


def test_exists_does_not_take_a_refusal_for_absence(scripted: Scripted) -> None:
    scripted.behave = answers(403, "AccessDenied")
    with pytest.raises(AccessDeniedError, match=r"cannot look up s3://b/k: access denied"):
        Storage(S3(endpoint=scripted.endpoint)).exists("s3://b/k")


@pytest.mark.parametrize(("status", "code"), [(412, "PreconditionFailed"), (409, "ConditionalRequestConflict")])
def test_conditional_write_lost(scripted: Scripted, status: int, code: str) -> None:
    scripted.behave = lambda method, _: refusal(status, code) if is_second_or_later_put(method) else None

    def is_second_or_later_put(method: str) -> bool:
        return method == "PUT" and scripted.requests.count(("PUT", "")) > 1

    storage = Storage(S3(endpoint=scripted.endpoint))
    for _ in range(2):  # the server is probed once
        with pytest.raises(AlreadyExistsError, match="cannot create s3://b/k"):
            storage.write("s3://b/k", b"x", if_absent=True)
    assert [method for method, _ in scripted.requests] == ["PUT", "PUT", "DELETE", "PUT", "PUT"]


def test_a_server_that_ignores_conditions_is_not_written_to(rclone_storage: Storage, rclone_server: str) -> None:
    bucket = new_bucket(rclone_storage)
    rclone_storage.write(f"s3://{bucket}/lock", b"theirs")
    for _ in range(2):
        with pytest.raises(StorageError) as caught:
            rclone_storage.write(f"s3://{bucket}/lock", b"mine", if_absent=True)
        for part in (f"cannot create s3://{bucket}/lock", rclone_server, "(If-None-Match)", "Choose a folder, or"):
            assert part in str(caught.value)
    assert rclone_storage.read(f"s3://{bucket}/lock") == b"theirs"
    assert len(rclone_storage.list(f"s3://{bucket}")) == 1


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_a_server_that_only_the_environment_names_is_probed_too(
    rclone_storage: Storage, rclone_server: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    bucket = new_bucket(rclone_storage)
    monkeypatch.setenv(variable, rclone_server)
    storage = Storage()
    storage.write(f"s3://{bucket}/lock", b"theirs")
    with pytest.raises(StorageError, match=f"{rclone_server} ignores the condition"):
        storage.write(f"s3://{bucket}/lock", b"mine", if_absent=True)
    assert storage.read(f"s3://{bucket}/lock") == b"theirs"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://s3.amazonaws.com", True),
        ("https://s3.dualstack.eu-west-1.amazonaws.com:443/", True),
        ("https://s3.cn-north-1.amazonaws.com.cn", True),
        ("https://s3.eu-west-1.api.aws", True),
        ("https://amazonaws.com.example.org", False),
        ("https://s3.myamazonaws.com", False),
        ("http://minio:9000", False),
    ],
)
def test_which_servers_are_aws(url: str, expected: bool) -> None:
    assert is_aws(url) is expected


@pytest.mark.usefixtures("s3_credentials")
def test_aws_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    storage, puts = Storage(), list[dict[str, Any]]()

    def put_object(**put: Any) -> dict[str, str]:
        puts.append(put)
        return {"ETag": '"v1"'}

    monkeypatch.setattr(storage._s3.client, "put_object", put_object)
    storage.write("s3://b/k", b"x", if_absent=True)
    assert puts == [{"Bucket": "b", "Key": "k", "Body": b"x", "IfNoneMatch": "*"}]
    assert storage._s3.endpoint == "AWS's endpoint"


def test_list_leaves_out_probes(s3_storage: Storage, bucket: str) -> None:
    s3_storage.write(f"s3://{bucket}/folder/.tandem-0123456789abcdef.tmp", b"")
    assert s3_storage.list(f"s3://{bucket}/folder") == []


def test_a_server_that_stalls_is_asked_again(scripted: Scripted) -> None:
    asked: list[str] = []
    given_up = threading.Event()

    def behave(method: str, _: str) -> Answer | None:
        asked.append(method)
        if len(asked) < 3:
            given_up.wait(60)
        return None

    scripted.behave = behave
    try:
        assert Storage(S3(endpoint=scripted.endpoint, timeout_seconds=1)).stat("s3://b/k").size == 3500
    finally:
        given_up.set()
    assert len(asked) >= 3


def test_a_conditional_write_that_gets_no_answer(scripted: Scripted) -> None:
    given_up = threading.Event()

    def behave(method: str, _: str) -> Answer | None:
        puts = scripted.requests.count(("PUT", ""))
        if puts > 2:
            given_up.wait(60)
        return refusal(412, "PreconditionFailed") if puts == 2 and method == "PUT" else None

    scripted.behave = behave
    try:
        with pytest.raises(UnreachableError, match=r"cannot write s3://b/k: no answer from .* \(ReadTimeoutError\)"):
            Storage(S3(endpoint=scripted.endpoint, timeout_seconds=1)).write("s3://b/k", b"x", if_absent=True)
    finally:
        given_up.set()


def test_invalid_bucket_name(s3_storage: Storage) -> None:
    with pytest.raises(StorageError, match=r"cannot look up s3://not a bucket/k: ParamValidationError"):
        s3_storage.stat("s3://not a bucket/k")


def test_no_credentials(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    with pytest.raises(NoCredentialsError) as caught:
        Storage(S3(endpoint=scripted.endpoint)).read("s3://b/k")
    for part in ("s3://b/k", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "instance role"):
        assert part in str(caught.value)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(NoCredentialsError, match="ProfileNotFound"):
        Storage(S3(endpoint=scripted.endpoint)).read("s3://b/k")


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that nobody listens on, nor can while the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.usefixtures("s3_credentials")
def test_nobody_listens(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that has never answered is asked twice, and not waited for any longer."""
    endpoint, pauses = f"http://127.0.0.1:{silent_port}", list[float]()
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=pauses.append))
    with pytest.raises(UnreachableError) as caught:
        Storage(S3(endpoint=endpoint)).stat("s3://b/k")
    assert len(pauses) == 1
    for part in ("s3://b/k", f"no answer from {endpoint}", "Check storage.s3.endpoint"):
        assert part in str(caught.value)


@pytest.mark.usefixtures("s3_credentials")
def test_a_server_of_the_environment_is_named_without_its_password(
    silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://me:planted@127.0.0.1:{silent_port}")
    storage = Storage()
    with pytest.raises(UnreachableError) as caught:
        storage.stat("s3://b/k")
    assert f"@127.0.0.1:{silent_port}" in str(caught.value)
    assert "planted" not in f"{caught.value} {storage._s3.endpoint}"


@pytest.mark.usefixtures("s3_credentials", "small_ranges")
def test_nobody_listens_to_the_first_range(silent_port: int) -> None:
    known = ObjectInfo("s3://b/k", 10, "v1")
    with (
        Storage(S3(endpoint=f"http://127.0.0.1:{silent_port}")).open("s3://b/k", known=known) as stream,
        pytest.raises(UnreachableError, match=f"no answer from http://127.0.0.1:{silent_port}"),
    ):
        stream.read()


def test_an_endpoint_that_has_answered_gets_all_retries(
    scripted: Scripted, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=pauses.append))
    storage = Storage(S3(endpoint=scripted.endpoint))
    storage.stat("s3://b/k")

    def redirect(request: Any, **_: object) -> None:
        request.url = f"http://127.0.0.1:{silent_port}/b/k"

    storage._s3.client.meta.events.register("before-send.s3", redirect)
    with pytest.raises(UnreachableError):
        storage.stat("s3://b/k")
    assert len(pauses) == 4


def test_errors_survive_pickling(s3_storage: Storage) -> None:
    with pytest.raises(TandemError) as caught:
        s3_storage.stat("s3://no-such-bucket/k")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (type(caught.value), str(caught.value))
