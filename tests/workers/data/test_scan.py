"""What an index records of a shard: its samples' number, places, and which of them the filters keep."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.parquet
import pytest

from jobspecs.data import Filter, Source
from jobspecs.errors import AccessDeniedError, DataError, NotFoundError
from tests.workers.data.tars import InMemory, pairs, tar_of, texts
from workers.data.find_shards import stem
from workers.data.scan import Scan, check_end, scan_shard, sidecar_count
from workers.data.shards import OFFSET_STRIDE
from workers.storage import ObjectInfo, Storage

STORAGE = Storage()


def kept(scan: Scan) -> tuple[int, ...]:
    """The places that the filters keep."""
    assert scan.kept is not None
    places = tuple(np.flatnonzero(np.unpackbits(scan.kept, count=scan.stored)).tolist())
    assert len(places) == scan.samples
    return places


PLAIN = Source(name="web", urls=["*"])


def filtered(*filters: Filter, **other: Any) -> Source:
    return Source(name="web", urls=["*"], filters=list(filters), **other)


WIDE = Filter(field="width", at_least=200)


class Folder:
    """A folder with one shard, 00000.tar, and what lies beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.uri = f"file://{path}/00000.tar"

    def write(self, content: bytes, name: str = "00000.tar") -> ObjectInfo:
        (self.path / name).write_bytes(content)
        return STORAGE.stat(f"file://{self.path}/{name}")

    def parquet(self, **columns: Sequence[Any]) -> None:
        arrow.parquet.write_table(arrow.table(columns), self.path / "00000.parquet")

    def scan(self, content: bytes, source: Source = PLAIN, name: str = "00000.tar") -> Scan:
        return scan_shard(self.write(content, name), source, STORAGE)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


# --- counts that stand beside the tar ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://b/k/00000.tar", "s3://b/k/00000"),
        ("s3://b/k.tar/00000.tar.gz", "s3://b/k.tar/00000"),
        ("s3://b/k/0.1.tgz", "s3://b/k/0.1"),
        ("s3://b/k/00000", "s3://b/k/00000"),
        ("s3://b/k/0.tar.tar", "s3://b/k/0.tar"),
    ],
)
def test_what_stands_beside_a_shard_begins_like_it(uri: str, expected: str) -> None:
    assert stem(uri) == expected


def test_a_shard_alone_says_nothing(folder: Folder) -> None:
    assert sidecar_count(folder.uri, STORAGE) is None


def test_stats_of_img2dataset(folder: Folder) -> None:
    folder.write(b'{"count": 9, "successes": 7, "failed_to_download": 2}', "00000_stats.json")
    folder.write(b"is not looked at", "00000.parquet")
    assert sidecar_count(folder.uri, STORAGE) == 7
    assert sidecar_count(f"file://{folder.path}/00000.tar.gz", STORAGE) == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no count under 'successes'. Mend it, or delete it to have the tar scanned."),
        (b'{"count": 3}', "has no count under 'successes'"),
        (b"[1]", "has no count under 'successes'"),
        (b"7", "has no count under 'successes'"),
        (b"\xff{", "has no count under 'successes'"),
        (b'{"successes": "7"}', "'successes' is '7', not a count. Mend or delete it."),
        (b'{"successes": -1}', "'successes' is -1, not a count."),
        (b'{"successes": 1.5}', "'successes' is 1.5, not a count."),
        (b'{"successes": null}', "'successes' is None, not a count."),
        (b'{"successes": true}', "'successes' is True, not a count."),
    ],
)
def test_stats_that_are_broken(folder: Folder, content: bytes, message: str) -> None:
    stats = folder.write(content, "00000_stats.json")
    with pytest.raises(DataError) as caught:
        sidecar_count(folder.uri, STORAGE)
    assert stats.uri in str(caught.value)
    assert message in str(caught.value)


def test_successes_of_a_parquet_file(folder: Folder) -> None:
    folder.parquet(key=["0", "1", "2", "3"], status=["success", "failed_to_download", "success", None])
    assert sidecar_count(folder.uri, STORAGE) == 2


def test_a_parquet_file_without_a_status_does_not_say_what_the_tar_holds(folder: Folder) -> None:
    folder.parquet(key=["0", "1"])
    assert sidecar_count(folder.uri, STORAGE) is None
    arrow.parquet.write_table(arrow.table({}), folder.path / "00000.parquet")
    assert sidecar_count(folder.uri, STORAGE) is None


def test_a_parquet_file_that_is_broken_in_any_way(folder: Folder) -> None:
    folder.parquet(key=[f"{n:09}" for n in range(100)], status=["success", "failed"] * 50)
    whole = (folder.path / "00000.parquet").read_bytes()
    noise = random.Random(0)
    message = (
        f"file://{folder.path}/00000.parquet is a damaged parquet file, or none. "
        "Write it again, or delete it to have the tar scanned."
    )
    refusals = []
    for _ in range(300):
        damaged = bytearray(whole[: noise.choice([len(whole), noise.randrange(len(whole))])])
        for _ in range(3):
            damaged[noise.randrange(len(damaged) or 1) :][:1] = noise.randbytes(1)
        folder.write(bytes(damaged), "00000.parquet")
        try:
            assert sidecar_count(folder.uri, STORAGE) is not None
        except DataError as error:
            refusals.append(str(error))
    assert len(refusals) > 100
    assert set(refusals) == {message}


# --- the end of a tar that is not read -----------------------------------------------------------------

WHOLE = tar_of(texts(0, 3))


def test_the_end_of_a_whole_tar(folder: Folder) -> None:
    check_end(folder.write(WHOLE), STORAGE)
    check_end(folder.write(WHOLE[: 3 * 1024 + 512]), STORAGE)
    check_end(folder.write(gzip.compress(WHOLE), "0.tar.gz"), STORAGE)


@pytest.mark.parametrize("size", [1, 511, 512, 1024, 1025, 3 * 1024, 3 * 1024 + 511, len(WHOLE) - 1])
def test_the_end_of_a_tar_that_was_cut(folder: Folder, size: int) -> None:
    with pytest.raises(DataError) as caught:
        check_end(folder.write(WHOLE[:size]), STORAGE)
    assert str(caught.value) == f"{folder.uri}: truncated at its end. Write the tar again or take it out."


def test_looking_at_the_end_reads_little() -> None:
    storage = InMemory({"file:///x.tar": WHOLE})
    check_end(ObjectInfo("file:///x.tar", len(WHOLE), ""), storage)
    assert storage.bytes_read == 512


# --- tars that are read --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 600])
def test_samples_are_counted_and_every_256th_located(folder: Folder, count: int) -> None:
    content = tar_of([("README", b""), *((f"{n}.{name}", b"") for n in range(count) for name in ("jpg", "txt"))])
    scan = folder.scan(content)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        first_members = [member.offset for member in tar if member.name.endswith(".jpg")]
    assert scan == Scan.of(count, tuple(first_members[::OFFSET_STRIDE]), None)


@pytest.mark.parametrize("count", [3, 600])
def test_a_compressed_tar_has_no_places_to_begin_at(folder: Folder, count: int) -> None:
    scan = folder.scan(gzip.compress(tar_of(texts(0, count))), name="00000.tar.gz")
    assert scan.stored == count
    assert scan.offsets.tolist() == ([] if count > OFFSET_STRIDE else [0])


DAMAGED = {
    "cut in a member": (WHOLE[: 2 * 1024 + 512 + 3], "truncated after 2 samples"),
    "cut in a header": (WHOLE[: 2 * 1024 + 100], "truncated after 2 samples"),
    "cut at the border of a member": (WHOLE[: 2 * 1024], "truncated after 2 samples"),
    "without an end": (WHOLE[: 3 * 1024], "truncated after 3 samples"),
    "overwritten": (WHOLE[:1024] + b"\xff" * 512 + WHOLE[1536:], "unreadable after 1 samples"),
    "no tar": (b"<html>Not found</html>" * 99, "unreadable after 0 samples"),
    "a cut gzip": (gzip.compress(WHOLE)[:60], "truncated after 0 samples"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_tar(folder: Folder, content: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        folder.scan(content)
    assert str(caught.value) == f"{folder.uri}: {message}. Write the tar again or take it out."


def test_a_tar_without_samples(folder: Folder) -> None:
    for content in (tar_of([]), tar_of([("README", b"no sample")])):
        assert folder.scan(content) == Scan.of(0)


def test_a_tar_that_is_gone_or_another_one(folder: Folder) -> None:
    with pytest.raises(NotFoundError):
        scan_shard(ObjectInfo("file:///nowhere/x.tar", 1, ""), PLAIN, STORAGE)
    was = folder.write(WHOLE)
    folder.write(tar_of(pairs(0, 9)))
    for look in (lambda: scan_shard(was, PLAIN, STORAGE), lambda: check_end(was, STORAGE)):
        with pytest.raises(DataError, match=r"00000\.tar"):
            look()


# --- filters -------------------------------------------------------------------------------------------


def described(*metadata: Any, extension: str = "json") -> bytes:
    """A tar of samples with these contents of their metadata member; None is a sample without one."""
    members = []
    for place, content in enumerate(metadata):
        members.append((f"folder/{place:03}.jpg", b"j"))
        if content is not None:
            members.append(
                (
                    f"folder/{place:03}.{extension}",
                    content if isinstance(content, bytes) else json.dumps(content).encode(),
                )
            )
    return tar_of(members)  # fmt: skip


def test_filters_on_members(folder: Folder) -> None:
    content = described(
        {"width": 200},
        {"width": 199},
        {"width": "300"},
        {"height": 300},
        None,
        b"no JSON",
        b"\xff",
        b"[" * 100_000,
        [200],
        200,
        {"width": 10**400},
        b"",
    )
    assert kept(folder.scan(content, filtered(WIDE))) == (0, 2, 10)
    assert kept(folder.scan(content, filtered(WIDE, Filter(field="width", at_most=250)))) == (0,)
    assert kept(folder.scan(content, filtered(Filter(field="width", at_least=1e300)))) == (10,)
    assert folder.scan(content, filtered(Filter(field="depth", at_least=0))) == Scan.of(12, (0,), ())


def test_filters_on_another_member_than_json(folder: Folder) -> None:
    content = described({"clip": {"width": 200}}, {"clip": {"width": 1}}, extension="meta.json")
    wide = Filter(field="clip.width", at_least=200)
    assert kept(folder.scan(content, filtered(wide, metadata="info.json;meta.json"))) == (0,)
    assert kept(folder.scan(content, filtered(wide))) == ()


def test_filters_on_a_parquet_file(folder: Folder) -> None:
    """It goes before the members, and finds its rows by key: failed downloads have rows too."""
    content = described({"width": 1}, {"width": 1}, {"width": 1}, {"width": 1})
    folder.parquet(
        key=["003", "002", "000", "failed", "001"],
        width=[200, None, 500, 900, 100],
        similarity=[0.1, 0.9, 0.5, 0.9, 0.9],
        **{"a.b": ["x", "y", "z", "x", "x"]},
    )
    assert kept(folder.scan(content, filtered(WIDE))) == (0, 3)
    assert kept(folder.scan(content, filtered(WIDE, Filter(field="similarity", at_least=0.3)))) == (0,)
    assert kept(folder.scan(content, filtered(Filter(field="a.b", one_of=["x", "y"])))) == (1, 2, 3)


@pytest.mark.parametrize("keys", [["001"], [0, 1]], ids=["a key is missing", "numbers have lost their zeros"])
def test_a_sample_that_a_parquet_file_does_not_name(folder: Folder, keys: list[Any]) -> None:
    folder.parquet(key=keys, width=[200] * len(keys))
    with pytest.raises(DataError, match=r"00000\.parquet has no row with the key of the sample 'folder/000'\. Write"):
        folder.scan(described({"width": 200}, {"width": 200}), filtered(WIDE))


@pytest.mark.parametrize("columns", [{"key": ["000", "001"]}, {"width": [900, 900]}, {"other": [1, 2]}])
def test_a_parquet_file_without_the_fields_is_not_asked(folder: Folder, columns: dict[str, list[Any]]) -> None:
    folder.parquet(**columns)
    assert kept(folder.scan(described({"width": 1}, {"width": 200}), filtered(WIDE))) == (1,)


def test_a_broken_parquet_file_is_named(folder: Folder) -> None:
    folder.write(b"PAR1", "00000.parquet")
    with pytest.raises(DataError, match=r"00000\.parquet is a damaged parquet file, or none\. Write it again"):
        folder.scan(described({"width": 1}), filtered(WIDE))


def test_kept_samples_keep_their_places_and_offsets(folder: Folder) -> None:
    content = described(*({"width": 1000 * (place % 3 == 0)} for place in range(600)))
    scan = folder.scan(content, filtered(WIDE))
    assert kept(scan) == tuple(range(0, 600, 3))
    assert scan.stored == 600
    assert scan.offsets.tolist() == folder.scan(content).offsets.tolist() != []


def test_a_file_beside_the_tar_that_may_not_be_read_is_none(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3's answer to whoever may not list, also for what is not there."""

    def denied(storage: Storage, uri: str) -> bytes:
        raise AccessDeniedError(f"cannot read {uri}: access denied")

    monkeypatch.setattr(Storage, "read", denied)
    assert sidecar_count(folder.uri, STORAGE) is None
