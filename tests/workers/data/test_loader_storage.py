"""Loaders whose shards lie in object storage: the batches are those from disk, whatever goes wrong on the way."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from jobspecs.data import Cache
from jobspecs.errors import DataError
from jobspecs.storage import S3
from tests.faulty_proxy import FAULTS, FaultyProxy
from tests.workers.data.mixture import assert_equal, global_batches, loader, write_mixture
from tests.workers.data.tars import copied
from workers.data.index import Index
from workers.data.loader import RankBatch
from workers.storage import Storage
from workers.storage.read_ahead import RANGE_BYTES

PADDING = 700_000
"""Bytes behind each scan: the longest of their shards is read in two ranges."""


@pytest.fixture(scope="module")
def long_mixture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, ...]:
    indexes = write_mixture(tmp_path_factory.mktemp("long"), PADDING)
    assert indexes[1].sizes.max() > RANGE_BYTES
    return indexes


@pytest.fixture(scope="module")
def long_expected(long_mixture: tuple[Index, ...]) -> list[RankBatch]:
    """The batches from disk: the padding changes the keys of the images."""
    return global_batches(long_mixture)


def in_bucket(indexes: tuple[Index, ...], endpoint: str) -> tuple[tuple[Index, ...], S3]:
    """The same shards in a new bucket, and how it is reached."""
    s3, bucket = S3(endpoint=endpoint), f"bucket-{secrets.token_hex(4)}"
    storage = Storage(s3)
    storage._s3.client.create_bucket(Bucket=bucket)
    return tuple(copied(index, f"s3://{bucket}/{index.source}", storage) for index in indexes), s3


@pytest.fixture(params=["s3_server", "rclone_server"])
def server(request: pytest.FixtureRequest) -> str:
    """The URL of a server of either maker."""
    url: str = request.getfixturevalue(request.param)
    return url


def test_any_split_gives_the_batches_from_disk(
    long_mixture: tuple[Index, ...], long_expected: list[RankBatch], server: str
) -> None:
    indexes, s3 = in_bucket(long_mixture, server)
    assert_equal(global_batches(indexes, processes=2, s3=s3), long_expected)
    assert_equal(global_batches(indexes, processes=1, world_size=2, first_step=7, s3=s3), long_expected[7:])


def test_faults_of_every_kind_change_nothing(
    long_mixture: tuple[Index, ...], long_expected: list[RankBatch], rclone_server: str
) -> None:
    """Behind it the server that makes it harder: it ignores conditions and answers ranges with status 200."""
    indexes, s3 = in_bucket(long_mixture, rclone_server)
    with FaultyProxy(rclone_server, seed=1, faults=dict.fromkeys(FAULTS, 0.2), faults_per_range=1) as proxy:
        s3 = S3(endpoint=proxy.url, timeout_seconds=2)
        assert_equal(global_batches(indexes, processes=4, s3=s3), long_expected)
    assert all(proxy.injected[fault] for fault in FAULTS), proxy.injected
    assert {path.rpartition("/")[2] for _, path, _ in proxy.requests} >= {f"shard-{shard}.tar" for shard in range(5)}


def test_a_cache_changes_nothing_and_spares_the_next_pass(
    mixture: tuple[Index, ...], expected: list[RankBatch], s3_server: str, tmp_path: Path
) -> None:
    indexes, _ = in_bucket(mixture, s3_server)
    cache = Cache(folder=str(tmp_path), max_size=64 << 20)
    with FaultyProxy(s3_server) as proxy:
        s3 = S3(endpoint=proxy.url)
        assert_equal(global_batches(indexes, processes=2, s3=s3, cache=cache), expected)
        # Lanes of both processes may ask for a shard before it is there.
        first = len(proxy.requests)
        assert_equal(global_batches(indexes, processes=1, s3=s3, cache=cache), expected)
        assert len(proxy.requests) == first


def consume(indexes: tuple[Index, ...], s3: S3) -> None:
    with loader(indexes, processes=2, s3=s3) as batches:
        for _ in batches:
            pass


CHANGED = "it was changed or replaced since it was indexed"


def test_a_shard_that_was_replaced_is_an_error_that_names_it(mixture: tuple[Index, ...], server: str) -> None:
    indexes, s3 = in_bucket(mixture, server)
    uri = indexes[1].uris[1]
    Storage(s3).write(uri, Storage(s3).read(uri)[::-1])
    with pytest.raises(DataError, match=f"{uri}: {CHANGED}"):
        consume(indexes, s3)


def test_a_shard_of_another_etag_is_an_error_that_names_it(mixture: tuple[Index, ...], s3_server: str) -> None:
    indexes, _ = in_bucket(mixture, s3_server)
    uri = indexes[0].uris[3]
    with FaultyProxy(s3_server) as proxy:
        proxy.change(uri.removeprefix("s3:/"))
        with pytest.raises(DataError, match=f"{uri}: {CHANGED}"):
            consume(indexes, S3(endpoint=proxy.url))
    assert proxy.injected["changed"]
