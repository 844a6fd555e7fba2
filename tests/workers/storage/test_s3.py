"""S3: ranges and requests, a server that misbehaves, and each failure with its error and message."""

from __future__ import annotations

import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from jobspecs.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    DataError,
    NoCredentialsError,
    NotFoundError,
    StorageError,
    TandemError,
    UnreachableError,
)
from jobspecs.storage import S3
from workers.storage import Storage

SECRET = "testing-secret"


class Scripted:
    """An S3 server of one object at any key. `behave` may answer instead: it returns (status, headers, body)
    or None; a body shorter than its Content-Length breaks the connection off."""

    def __init__(self) -> None:
        self.data, self.etag = os.urandom(3500), "v1"
        self.behave: Callable[[str, str], tuple[int, dict[str, str], bytes] | None] = lambda *_: None
        self.requests: list[tuple[str, str]] = []
        """(method, Range header) of each request."""
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                wanted = self.headers.get("Range", "")
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                scripted.requests.append((self.command, wanted))
                status, headers, body = scripted.behave(self.command, wanted) or scripted.serve(
                    wanted, self.headers.get("If-Match")
                )
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
                self.close_connection = int(headers.get("Content-Length", len(body))) != len(body)

            do_GET = do_HEAD = do_PUT = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def serve(self, wanted: str, match: str | None) -> tuple[int, dict[str, str], bytes]:
        if match is not None and match != f'"{self.etag}"':
            return refusal(412, "PreconditionFailed")
        headers = {"ETag": f'"{self.etag}"'}
        if not wanted:
            return 200, headers, self.data
        first, last = (int(part) for part in wanted.removeprefix("bytes=").split("-"))
        body = self.data[first : last + 1]
        return 206, headers | {"Content-Range": f"bytes {first}-{last}/{len(self.data)}"}, body


def refusal(status: int, code: str) -> tuple[int, dict[str, str], bytes]:
    # The server's text carries a secret, as if it echoed the request.
    return status, {}, f"<Error><Code>{code}</Code><Message>you sent {SECRET}</Message></Error>".encode()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    import botocore.endpoint

    monkeypatch.setattr(botocore.endpoint, "time", SimpleNamespace(sleep=lambda _: None))
    server = Scripted()
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.server.shutdown()
    thread.join()
    server.server.server_close()


def test_list_of_several_pages(s3_storage: Storage, bucket: str) -> None:
    def two_a_page(params: dict[str, Any], **_: object) -> None:
        params["MaxKeys"] = 2

    s3_storage._s3.client.meta.events.register("before-parameter-build.s3.ListObjectsV2", two_a_page)
    infos = [s3_storage.write(f"s3://{bucket}/folder/{name}", b"") for name in "abcde"]
    assert s3_storage.list(f"s3://{bucket}/folder") == infos


def test_one_client_for_all_threads(s3_storage: Storage) -> None:
    with ThreadPoolExecutor(8) as pool:
        clients = {id(client) for client in pool.map(lambda _: s3_storage._s3.client, range(64))}
    assert len(clients) == 1


@pytest.mark.usefixtures("small_ranges")
def test_reads_in_checked_ranges(scripted: Scripted) -> None:
    assert Storage(S3(endpoint=scripted.endpoint)).read("s3://b/k") == scripted.data
    assert [wanted for _, wanted in scripted.requests] == [
        "", "bytes=0-999", "bytes=1000-1999", "bytes=2000-2999", "bytes=3000-3499",
    ]  # fmt: skip


@pytest.mark.usefixtures("small_ranges")
def test_a_body_that_breaks_is_read_again_and_only_its_range(scripted: Scripted) -> None:
    storage, broken = Storage(S3(endpoint=scripted.endpoint)), []

    def behave(_: str, wanted: str) -> tuple[int, dict[str, str], bytes] | None:
        if wanted.startswith("bytes=1000-") and len(broken) < 4:
            broken.append(wanted)
            return 206, {"ETag": '"v1"', "Content-Length": "1000"}, b"x" * 300
        return None

    scripted.behave = behave
    with storage.open("s3://b/k") as stream:
        assert stream.read(500) + stream.read() == scripted.data
    assert len(broken) == 4
    assert [wanted for _, wanted in scripted.requests].count("bytes=0-999") == 1


@pytest.mark.parametrize("broken", [b"short", b"", b"long" * 1000])
@pytest.mark.usefixtures("small_ranges")
def test_a_body_of_the_wrong_length_is_an_error_in_the_end(scripted: Scripted, broken: bytes) -> None:
    storage = Storage(S3(endpoint=scripted.endpoint))
    scripted.behave = lambda _, wanted: (206, {"ETag": '"v1"'}, broken) if "=2000-" in wanted else None
    with pytest.raises(StorageError) as caught:
        storage.read("s3://b/k")
    for part in ("s3://b/k", "the 1000 bytes from 2000 on", "5 times over", scripted.endpoint):
        assert part in str(caught.value)


@pytest.mark.usefixtures("small_ranges")
def test_an_object_that_changes_while_it_is_read(s3_storage: Storage, bucket: str) -> None:
    uri = f"s3://{bucket}/x"
    s3_storage.write(uri, b"a" * 3000)
    with s3_storage.open(uri) as stream:
        assert stream.read(10) == b"a" * 10
        s3_storage.write(uri, b"b" * 3000)
        with pytest.raises(DataError, match=f"cannot read {uri}: the object was changed"):
            stream.read()


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


def answers(status: int, code: str) -> Callable[[str, str], tuple[int, dict[str, str], bytes]]:
    return lambda *_: refusal(status, code)


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
    scripted.behave = answers(status, code)
    with pytest.raises(AlreadyExistsError, match="cannot create s3://b/k"):
        Storage(S3(endpoint=scripted.endpoint)).write("s3://b/k", b"x", if_absent=True)


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
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.usefixtures("s3_server")
def test_nobody_listens(free_port: int) -> None:
    endpoint = f"http://127.0.0.1:{free_port}"
    began = time.monotonic()
    with pytest.raises(UnreachableError) as caught:
        Storage(S3(endpoint=endpoint)).stat("s3://b/k")
    assert time.monotonic() - began < 10
    for part in ("s3://b/k", f"no answer from {endpoint}", "Check storage.s3.endpoint"):
        assert part in str(caught.value)


def test_an_endpoint_that_has_answered_gets_all_retries(
    scripted: Scripted, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=pauses.append))
    storage = Storage(S3(endpoint=scripted.endpoint))
    storage.stat("s3://b/k")

    def redirect(request: Any, **_: object) -> None:
        request.url = f"http://127.0.0.1:{free_port}/b/k"

    storage._s3.client.meta.events.register("before-send.s3", redirect)
    with pytest.raises(UnreachableError):
        storage.stat("s3://b/k")
    assert len(pauses) == 4


def test_errors_survive_pickling(s3_storage: Storage) -> None:
    with pytest.raises(TandemError) as caught:
        s3_storage.stat("s3://no-such-bucket/k")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (type(caught.value), str(caught.value))
