"""Every fault at once, between the storage and two servers: the same bytes, or the right error."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from jobspecs.data import Cache
from jobspecs.errors import DataError
from jobspecs.storage import S3
from tests.faulty_proxy import FAULTS, FaultyProxy
from tests.workers.storage.conftest import new_bucket
from workers.storage import Storage

pytestmark = pytest.mark.usefixtures("small_ranges")

DATA = random.Random(0).randbytes(30_500)
EVERYTHING = dict.fromkeys(FAULTS, 0.15)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("read_ahead", [0, 3])
@pytest.mark.parametrize("server", ["s3_server", "rclone_server"])
def test_the_bytes_are_those_without_faults(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: str,
    read_ahead: int,
    cached: bool,
) -> None:
    monkeypatch.setattr("workers.storage.s3_range._ATTEMPTS", 100)  # on a busy machine, late answers are faults too
    url: str = request.getfixturevalue(server)
    direct = Storage(S3(endpoint=url))
    uri = f"s3://{new_bucket(direct)}/k"
    known = direct.write(uri, DATA)
    section = Cache(folder=str(tmp_path), max_size=64 << 20) if cached else None
    with FaultyProxy(url, seed=1, faults=EVERYTHING) as proxy:
        storage = Storage(S3(endpoint=proxy.url, timeout_seconds=0.3), section, read_ahead)
        with storage.open(uri, 100, known=known) as stream:
            pieces = iter(lambda: stream.read(512) + stream.read(700), b"")
            assert b"".join(pieces) == DATA[100:]
        assert proxy.injected.keys() == set(FAULTS)
        assert len(proxy.requests) >= 31 + proxy.injected.total()


def test_faults_repeat_with_their_seed(s3_server: str, s3_storage: Storage, bucket: str) -> None:
    uri = f"s3://{bucket}/k"
    known = s3_storage.write(uri, DATA)

    def injected(seed: int) -> tuple[dict[str, int], list[tuple[str, str, str]]]:
        with FaultyProxy(s3_server, seed=seed, faults={"drop": 0.3, "short": 0.3}) as proxy:
            with Storage(S3(endpoint=proxy.url)).open(uri, known=known) as stream:
                assert stream.read() == DATA
            return dict(proxy.injected), proxy.requests

    assert injected(1) == injected(1) != injected(2)


@pytest.mark.parametrize("read_ahead", [0, 3])
def test_an_object_that_changes(s3_server: str, s3_storage: Storage, bucket: str, read_ahead: int) -> None:
    uri, other = f"s3://{bucket}/k", f"s3://{bucket}/other"
    known, s3_known = s3_storage.write(uri, DATA), s3_storage.write(other, DATA)
    with FaultyProxy(s3_server) as proxy:
        storage = Storage(S3(endpoint=proxy.url), read_ahead=read_ahead)
        with storage.open(uri, known=known) as stream:
            assert stream.read(10_000) == DATA[:10_000]
            proxy.change(f"/{bucket}/k")
            with pytest.raises(DataError, match=f"cannot read {uri}: it was changed or replaced since it was indexed"):
                stream.read()
        assert storage.stat(uri).etag == "changed"
        assert proxy.injected["changed"] >= 2
        with storage.open(other, known=s3_known) as stream:
            assert stream.read() == DATA


def test_listing_and_writing_pass_through(s3_server: str, bucket: str) -> None:
    with FaultyProxy(s3_server, faults={"drop": 1.0}) as proxy:
        storage = Storage(S3(endpoint=proxy.url))
        infos = [storage.write(f"s3://{bucket}/folder/{name}", name.encode(), if_absent=True) for name in "ab"]
        assert storage.list(f"s3://{bucket}/folder") == infos
        storage.delete(infos[0].uri)
        assert not storage.exists(infos[0].uri)
        assert proxy.injected.total() == 0
