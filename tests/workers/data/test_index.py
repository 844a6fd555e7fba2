"""From the URLs of a source to its index."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jobspecs.errors import DataError, NotFoundError
from workers.data.index import Index, expand, scan_count, sidecar_count, stat_shards
from workers.storage import Storage

STORAGE = Storage()


def names(pattern: str) -> list[str]:
    """What a pattern in the folder s3://b expands to, without the folder."""
    return [uri.removeprefix("s3://b/") for uri in expand([f"s3://b/{pattern}"], STORAGE)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("x.tar", "x.tar"),
        ("{0..2}.tar", "0.tar 1.tar 2.tar"),
        ("{8..11}.tar", "8.tar 9.tar 10.tar 11.tar"),
        ("{008..011}.tar", "008.tar 009.tar 010.tar 011.tar"),
        ("{00098..100}.tar", "00098.tar 00099.tar 00100.tar"),
        ("{5..5}.tar", "5.tar"),
        ("{a,b,}.tar", "a.tar b.tar .tar"),
        ("{train,more/train}-{0..1}.tar", "train-0.tar train-1.tar more/train-0.tar more/train-1.tar"),
        ("{0..1}{a,b}.tar", "0a.tar 0b.tar 1a.tar 1b.tar"),
        ("{a,b{0..2}}.tar", "a.tar b0.tar b1.tar b2.tar"),
        ("{a,b{0..1},c{x,y}z,{d,e}}.tar", "a.tar b0.tar b1.tar cxz.tar cyz.tar d.tar e.tar"),
    ],
)
def test_braces_expand_as_in_a_shell(pattern: str, expected: str) -> None:
    assert names(pattern) == expected.split()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{10..2}.tar", r"s3://b/{10\.\.2}\.tar: {10\.\.2} counts down\. Write the smaller number first\."),
        ("{}.tar", r"{} is neither a count like {000\.\.041} nor a list like {a,b}\."),
        ("{a}.tar", r"s3://b/{a}\.tar: {a} is neither a count"),
        ("{a..c}.tar", r"{a\.\.c} is neither a count"),
        ("{0..4..2}.tar", r"{0\.\.4\.\.2} is neither a count"),
        ("{-1..2}.tar", r"{-1\.\.2} is neither a count"),
        ("{{0..1}}.tar", r"{{0\.\.1}} is neither a count"),
        ("{x,{b}}.tar", r"{b} is neither a count"),
    ],
)
def test_braces_that_mean_nothing(pattern: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        names(pattern)


def test_urls_keep_their_order_and_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert expand(["b.tar", "file:///c/a.tar", "/c/{0..1}.tar"], STORAGE) == [
        f"file://{tmp_path}/b.tar",
        "file:///c/a.tar",
        "file:///c/0.tar",
        "file:///c/1.tar",
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.tar", "a-1.tar a-2.tar a-[3].tar b-1.tar"),
        ("a-*.tar", "a-1.tar a-2.tar a-[3].tar"),
        ("a-*", "a-1.tar a-1.tar.md5 a-2.tar a-[3].tar"),
        ("*1*", "a-1.tar a-1.tar.md5 b-1.tar"),
        ("a-[*.tar", "a-[3].tar"),
        ("{a,b}-*1.tar", "a-1.tar b-1.tar"),
        ("*/x.tar", None),
        ("c*.tar", None),
        ("a-?.tar*", None),  # only `*` and braces mean something
    ],
)
def test_a_star_lists_a_folder(tmp_path: Path, pattern: str, expected: str | None) -> None:
    folder = tmp_path / "sha[r]ds?"  # nothing in a folder's name is a pattern either
    for name in ("b-1.tar", "a-2.tar", "a-1.tar", "a-1.tar.md5", "a-[3].tar", "below/a-4.tar", "below/x.tar"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    if expected is None:
        with pytest.raises(DataError, match=r"matches nothing\. Check the folder|may stand in the file name"):
            expand([f"{folder}/{pattern}"], STORAGE)
    else:
        uris = [f"file://{folder}/{name}" for name in expected.split()]
        assert expand([f"{folder}/{pattern}"], STORAGE) == uris


def test_a_star_in_a_folders_name() -> None:
    with pytest.raises(DataError, match=r"s3://b/\*/x\.tar: \* may stand in the file name only"):
        names("*/x.tar")


def test_a_star_that_matches_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"{tmp_path}/\*\.tar matches nothing\. Check the folder"):
        expand([f"{tmp_path}/*.tar"], STORAGE)


def test_shards_named_twice() -> None:
    expected = r"shards named twice: s3://b/1\.tar, s3://b/2\.tar\. Each would be seen twice a pass"
    with pytest.raises(DataError, match=expected):
        expand(["s3://b/{0..2}.tar", "s3://b/{1..3}.tar"], STORAGE)


def test_a_shard_named_in_two_ways(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(b"x")
    with pytest.raises(DataError, match=r"named twice: file://.*/0\.tar\."):
        expand([f"{tmp_path}/*.tar", f"file://{tmp_path}/./0.tar"], STORAGE)


def test_stat_shards(tmp_path: Path) -> None:
    uris = []
    for name, size in (("b.tar", 3), ("a.tar", 5)):
        (tmp_path / name).write_bytes(b"x" * size)
        uris.append(f"file://{tmp_path}/{name}")
    infos = stat_shards(uris, STORAGE)
    assert [(info.uri, info.size) for info in infos] == [(uris[0], 3), (uris[1], 5)]
    assert infos == [STORAGE.stat(uri) for uri in uris]


def test_missing_shards_are_named(tmp_path: Path) -> None:
    (tmp_path / "1.tar").write_bytes(b"x")
    shards = expand([f"{tmp_path}/{{0..5}}.tar"], STORAGE)
    expected = r"5 of 6 shards do not exist: .*/0\.tar, .*/2\.tar, .*/3\.tar and 2 more\. Check the urls"
    with pytest.raises(DataError, match=expected):
        stat_shards(shards, STORAGE)


def test_empty_shards_are_named(tmp_path: Path) -> None:
    for name, content in (("0", b"x"), ("1", b""), ("2", b"")):
        (tmp_path / f"{name}.tar").write_bytes(content)
    expected = r"shards without a byte: file://.*/1\.tar, file://.*/2\.tar\. Write them again"
    with pytest.raises(DataError, match=expected):
        stat_shards(expand([f"{tmp_path}/*.tar"], STORAGE), STORAGE)


def test_sidecar(tmp_path: Path) -> None:
    shard = f"file://{tmp_path}/00000.tar"
    assert sidecar_count(shard, STORAGE) is None
    (tmp_path / "00000_stats.json").write_text('{"count": 9, "successes": 7, "failed_to_download": 2}')
    assert sidecar_count(shard, STORAGE) == 7


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
def test_broken_sidecar(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "00000_stats.json").write_bytes(content)
    with pytest.raises(DataError) as caught:
        sidecar_count(f"file://{tmp_path}/00000.tar", STORAGE)
    assert f"{tmp_path}/00000_stats.json" in str(caught.value)
    assert message in str(caught.value)


def test_scan_counts_samples_not_members(tmp_path: Path, write_source: Callable[[Path, Sequence[int]], Index]) -> None:
    index = write_source(tmp_path, [3, 1, 5])
    assert [scan_count(uri, STORAGE) for uri in index.uris] == [3, 1, 5]


def test_scan_of_a_damaged_tar(tmp_path: Path, write_source: Callable[[Path, Sequence[int]], Index]) -> None:
    shard = write_source(tmp_path, [3]).uris[0]
    path = Path(shard.removeprefix("file://"))
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b"sample 2") + 3])
    with pytest.raises(DataError) as caught:
        scan_count(shard, STORAGE)
    assert str(caught.value) == f"{shard}: truncated after 2 samples. Write the tar again or take it out."
    path.write_bytes(b"no tar")
    with pytest.raises(DataError, match=r"unreadable after 0 samples"):
        scan_count(shard, STORAGE)


def test_scan_of_a_tar_without_samples(tmp_path: Path, tar_of: Callable[..., bytes]) -> None:
    path = tmp_path / "x.tar"
    for members in ([], [("README", b"no sample")]):
        path.write_bytes(tar_of(members))
        with pytest.raises(DataError, match=r"x\.tar holds no sample\. Take it out of the urls\."):
            scan_count(f"file://{path}", STORAGE)


def test_scan_of_a_missing_tar() -> None:
    with pytest.raises(NotFoundError):
        scan_count("file:///nowhere/x.tar", STORAGE)


INDEX = Index("web", ("s3://b/0.tar", "s3://b/é.tar"), (10, 20), ("e0", "e1"), (3, 4))


def test_counts_are_an_array() -> None:
    assert INDEX.counts.dtype == np.int64
    assert INDEX.counts.tolist() == [3, 4]


def test_json_round_trip() -> None:
    assert Index.from_json(INDEX.to_json()) == INDEX
    assert Index.from_json(INDEX.to_json()).fingerprint() == INDEX.fingerprint()


def test_fingerprint_stays_as_it_is() -> None:
    expected = hashlib.sha256("web\n0.tar 10 3\né.tar 20 4".encode()).hexdigest()
    assert INDEX.fingerprint() == expected


def test_fingerprint_of_a_copy_elsewhere_is_the_same() -> None:
    moved = replace(INDEX, uris=("file:///copy/of/0.tar", "file:///other/é.tar"), etags=("x", "y"))
    assert moved.fingerprint() == INDEX.fingerprint()


@pytest.mark.parametrize(
    "other",
    [
        replace(INDEX, source="news"),
        replace(INDEX, samples=(3, 5)),
        replace(INDEX, sizes=(10, 21)),
        replace(INDEX, uris=("s3://b/0.tar", "s3://b/2.tar")),
        Index("web", INDEX.uris[::-1], INDEX.sizes[::-1], INDEX.etags[::-1], INDEX.samples[::-1]),
        Index("web", INDEX.uris[:1], INDEX.sizes[:1], INDEX.etags[:1], INDEX.samples[:1]),
    ],
)
def test_fingerprint_of_other_data_differs(other: Index) -> None:
    assert other.fingerprint() != INDEX.fingerprint()
