"""From the URLs of a source to its shards, and all that can be wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from jobspecs.errors import DataError, NotFoundError, UsageError
from jobspecs.storage import S3
from workers.data.find_shards import Folders, find_shards, some
from workers.storage import ObjectInfo, Storage


class Everything(Storage):
    """Every object is there, or those that are named; counts requests."""

    def __init__(self, objects: Sequence[ObjectInfo] | None = None) -> None:
        super().__init__()
        self.objects = None if objects is None else {info.uri: info for info in objects}
        self.listed: list[str] = []
        self.asked = 0

    def stat(self, uri: str) -> ObjectInfo:
        self.asked += 1
        if self.objects is None:
            return ObjectInfo(uri, 1, uri)
        if uri not in self.objects:
            raise NotFoundError(uri)
        return self.objects[uri]

    def list(self, prefix: str, *, deep: bool) -> list[ObjectInfo]:
        assert not deep
        self.listed.append(prefix)
        return sorted(
            (info for info in (self.objects or {}).values() if info.uri.startswith(f"{prefix}/")),
            key=lambda info: info.uri,
        )


def named(*patterns: str) -> list[str]:
    """What patterns in the folder s3://b stand for, without the folder."""
    urls = [f"s3://b/{pattern}" for pattern in patterns]
    return [info.uri.removeprefix("s3://b/") for info in find_shards(urls, Folders(Everything()))]


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
    assert named(pattern) == expected.split()


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
        ("*/x.tar", r"s3://b/\*/x\.tar: \* may stand in the file name only\. Name the folders in the list of urls\."),
    ],
)
def test_patterns_that_mean_nothing(pattern: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        named(pattern)


def test_another_scheme() -> None:
    with pytest.raises(UsageError, match="gs"):
        find_shards(["gs://b/x.tar"], Folders(Everything()))


def test_urls_keep_their_order_and_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = find_shards(["b.tar", "file:///c/a.tar", "/c/{0..1}.tar", "s3://c/b.tar"], Folders(Everything()))
    assert [info.uri for info in found] == [
        f"file://{tmp_path}/b.tar",
        "file:///c/a.tar",
        "file:///c/0.tar",
        "file:///c/1.tar",
        "s3://c/b.tar",
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
        ("a-*1*.tar*", "a-1.tar a-1.tar.md5"),
        ("c*.tar", None),
        ("a-?.tar*", None),  # only `*` and braces mean something
        ("{a,c}-*.tar", None),  # a part that matches nothing is a mistake
    ],
)
def test_a_star_lists_a_folder(tmp_path: Path, pattern: str, expected: str | None) -> None:
    folder = tmp_path / "sha[r]ds?"  # nothing in a folder's name is a pattern either
    for name in ("b-1.tar", "a-2.tar", "a-1.tar", "a-1.tar.md5", "a-[3].tar", "below/a-4.tar", "below/x.tar"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    if expected is None:
        with pytest.raises(DataError, match=r" matches nothing\. Check the folder and the ending\."):
            find_shards([f"{folder}/{pattern}"], Folders(Storage()))
    else:
        found = find_shards([f"{folder}/{pattern}"], Folders(Storage()))
        assert [info.uri for info in found] == [f"file://{folder}/{name}" for name in expected.split()]


def test_sizes_and_tags(tmp_path: Path) -> None:
    for name, size in (("b.tar", 3), ("a.tar", 5)):
        (tmp_path / name).write_bytes(b"x" * size)
    found = find_shards([f"{tmp_path}/{{b,a}}.tar"], Folders(Storage()))
    assert [info.size for info in found] == [3, 5]
    assert found == [Storage().stat(info.uri) for info in found]
    assert found[::-1] == find_shards([f"{tmp_path}/*.tar"], Folders(Storage()))


# --- what is wrong with shards -------------------------------------------------------------------------


def test_all_that_is_wrong_is_told_at_once() -> None:
    shards = [ObjectInfo(f"s3://b/{n}.tar", 10, f"e{n}") for n in range(4)]
    shards += [ObjectInfo("s3://b/4.tar", 0, "empty"), ObjectInfo("s3://b/5.tar", 0, "empty")]
    shards += [ObjectInfo("s3://b/copy.tar", 10, "e1"), ObjectInfo("s3://b/other.tar", 11, "e1")]
    urls = [
        "s3://b/{0..9}.tar",
        "s3://b/copy.tar",
        "s3://b/other.tar",
        "s3://b/{2..3}.tar",
        "s3://none/*.tar",
        "s3://b/x-*",
    ]
    with pytest.raises(DataError) as caught:
        find_shards(urls, Folders(Everything(shards)))
    assert str(caught.value).splitlines() == [
        "s3://none/*.tar matches nothing. Check the folder and the ending.",
        "s3://b/x-* matches nothing. Check the folder and the ending.",
        "4 of 14 shards do not exist: s3://b/6.tar, s3://b/7.tar, s3://b/8.tar and 1 more. "
        "Check the urls (braces count both ends), or bring the shards there.",
        "2 of 14 shards are empty: s3://b/4.tar, s3://b/5.tar. Write them again or take them out of the urls.",
        "2 of 14 shards are named twice: s3://b/2.tar, s3://b/3.tar. Each would be seen twice a pass; name each once.",
        "1 of 14 shards hold the same bytes as another one: s3://b/copy.tar (as s3://b/1.tar). "
        "They would be seen twice a pass; keep one.",
    ]  # fmt: skip


def test_on_disk(tmp_path: Path) -> None:
    for name, content in (("0", b"x"), ("1", b""), ("3", b"x")):
        (tmp_path / f"{name}.tar").write_bytes(content)
    (tmp_path / "2.tar").mkdir()
    with pytest.raises(DataError) as caught:
        find_shards([f"{tmp_path}/{{0..3}}.tar"], Folders(Storage()))
    missing, empty = str(caught.value).splitlines()
    assert missing.startswith(f"1 of 4 shards do not exist: file://{tmp_path}/2.tar. Check the urls")
    assert empty.startswith(f"1 of 4 shards are empty: file://{tmp_path}/1.tar. ")


def test_a_shard_named_in_two_ways(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 of 2 shards are named twice: file://.*/0\.tar\."):
        find_shards([f"{tmp_path}/*.tar", f"file://{tmp_path}/./0.tar"], Folders(Storage()))


def test_in_object_storage(s3_server: str) -> None:
    storage = Storage(S3(endpoint=s3_server, region="us-east-1"))
    bucket = f"shards-{uuid4().hex}"
    storage._s3.client.create_bucket(Bucket=bucket)
    for name, content in (("0", b"a"), ("1", b"b"), ("below/2", b"c")):
        storage.write(f"s3://{bucket}/k/{name}.tar", content)
    assert [info.uri for info in find_shards([f"s3://{bucket}/k/*.tar"], Folders(storage))] == [
        f"s3://{bucket}/k/0.tar",
        f"s3://{bucket}/k/1.tar",
    ]
    (found,) = find_shards([f"s3://{bucket}/k/1.tar"], Folders(storage))
    assert found == storage.stat(found.uri)

    storage.write(f"s3://{bucket}/k/3.tar", b"a")
    with pytest.raises(DataError) as caught:
        find_shards([f"s3://{bucket}/k/{{0..3}}.tar"], Folders(storage))
    assert f"1 of 4 shards do not exist: s3://{bucket}/k/2.tar." in str(caught.value)
    assert f"same bytes as another one: s3://{bucket}/k/3.tar (as s3://{bucket}/k/0.tar)." in str(caught.value)


# --- requests ------------------------------------------------------------------------------------------


def test_a_few_shards_are_asked_for_and_many_are_listed() -> None:
    shards = [ObjectInfo(f"s3://b/k/{n:04}.tar", 10, f"e{n}") for n in range(1000)]
    storage = Everything(shards)
    assert find_shards(["s3://b/k/{0000..0099}.tar"], Folders(storage)) == shards[:100]
    assert (storage.asked, storage.listed) == (100, [])

    storage = Everything(shards)
    folders = Folders(storage)
    assert find_shards(["s3://b/k/{0000..0999}.tar"], folders) == shards
    assert find_shards(["s3://b/k/*.tar"], folders) == shards
    assert find_shards(["s3://b/k/0007.tar"], folders) == shards[7:8]
    with pytest.raises(DataError, match="1 of 301 shards do not exist"):
        find_shards(["s3://b/k/{0700..1000}.tar"], folders)
    assert (storage.asked, storage.listed) == (0, ["s3://b/k"])


def test_what_is_known_of_a_folder() -> None:
    folders = Folders(Everything([ObjectInfo("s3://b/k/0.tar", 10, "e")]))
    assert folders.has("s3://b/k/0.tar") is None
    assert list(folders.list("s3://b/k")) == ["s3://b/k/0.tar"]
    assert folders.has("s3://b/k/0.tar") is True
    assert folders.has("s3://b/k/1.tar") is False
    assert folders.has("s3://b/l/0.tar") is None
    assert folders.stat("s3://b/k/1.tar") is folders.stat("s3://b/l/0.tar") is None


def test_some_of_many_names() -> None:
    assert some(["a"]) == "a"
    assert some(["a", "b", "c"]) == "a, b, c"
    assert some(["a", "b", "c", "d"]) == "a, b, c and 1 more"
