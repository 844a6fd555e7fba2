"""The index: sidecar counts where they are, Ray tasks where not."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as arrow
import pyarrow.parquet
import pytest

from jobspecs.cluster import Cluster
from jobspecs.data import Filter, Source
from jobspecs.errors import DataError
from jobspecs.storage import S3
from orchestrator import scanning
from orchestrator.indexing import build_index, index_source, kept_index, known_index, read_index
from orchestrator.scanning import Found, scan_with_ray
from workers.data.find_shards import Folders, find_shards
from workers.data.index import Index
from workers.data.scan import Scan, scan_shard
from workers.storage import ObjectInfo, Storage


def write_tar(path: Path, samples: int) -> None:
    with tarfile.open(path, "w") as tar:
        for number in range(samples):
            member = tarfile.TarInfo(f"{number:03d}.txt")
            member.size = 2
            tar.addfile(member, io.BytesIO(b"hi"))


def write_json_tar(path: Path, scores: list[float]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, score in enumerate(scores):
            content = json.dumps({"score": score}).encode()
            member = tarfile.TarInfo(f"{number:03d}.json")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def no_scan(source: Source, shards: list[ObjectInfo]) -> Iterator[Found]:
    raise AssertionError(f"read {shards}")


def folders() -> Folders:
    return Folders(Storage(S3()))


class Here:
    """A scanner in this process that notes what it read."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, source: Source, shards: list[ObjectInfo]) -> Iterator[Found]:
        for shard in shards:
            self.read.append(shard.uri.rpartition("/")[2])
            try:
                yield shard, scan_shard(shard, source, Storage(S3()))
            except DataError as error:
                yield shard, error


def source(folder: Path) -> Source:
    return Source(name="s", urls=[f"{folder}/*.tar"])


def test_sidecars_are_believed_and_nothing_is_scanned(tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", 2)
        (tmp_path / f"{number}_stats.json").write_text(f'{{"successes": {number + 1}}}')
    index = build_index(source(tmp_path), folders(), no_scan)
    assert index.samples.tolist() == [1, 2, 3]
    assert [uri.rpartition("/")[2] for uri in index.uris] == ["0.tar", "1.tar", "2.tar"]
    assert all(size == (tmp_path / "0.tar").stat().st_size for size in index.sizes)


def test_a_source_without_a_sample(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", 1)
    (tmp_path / "0_stats.json").write_text('{"successes": 0}')
    with pytest.raises(DataError, match="source 's' has no sample in 1 shards"):
        build_index(source(tmp_path), folders(), no_scan)


@pytest.mark.ray
def test_shards_without_a_sidecar_are_scanned_by_ray_tasks(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "_TASK_SHARDS", 1)
    for number, samples in enumerate((4, 2, 7)):
        write_tar(tmp_path / f"{number}.tar", samples)
    (tmp_path / "1_stats.json").write_text('{"successes": 2}')
    storage = Storage(S3())
    index = build_index(source(tmp_path), Folders(storage), scan_with_ray(storage, Cluster()))
    assert index.samples.tolist() == [4, 2, 7]


@pytest.mark.ray
def test_damaged_shards_are_named_all_at_once(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "_TASK_SHARDS", 1)
    write_tar(tmp_path / "good.tar", 2)
    write_tar(tmp_path / "cut.tar", 2)
    content = (tmp_path / "cut.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: 512 + 512 + 100])
    (tmp_path / "text.tar").write_bytes(b"no tar at all" * 100)
    storage = Storage(S3())
    write_tar(tmp_path / "between.tar", 4)
    (tmp_path / "between.tar").write_bytes((tmp_path / "between.tar").read_bytes()[: 3 * 1024])
    with pytest.raises(DataError, match=r"cut\.tar: truncated after 1 samples") as error:
        build_index(source(tmp_path), Folders(storage), scan_with_ray(storage, Cluster()))
    assert "text.tar: unreadable" in str(error.value)
    assert "between.tar: truncated after 3 samples" in str(error.value)


def test_what_an_earlier_index_says_of_unchanged_shards_is_taken_from_it(tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", number + 1)
    scanner = Here()
    first = build_index(source(tmp_path), folders(), scanner)
    assert scanner.read == ["0.tar", "1.tar", "2.tar"]

    write_tar(tmp_path / "1.tar", 9)  # rewritten
    write_tar(tmp_path / "3.tar", 4)  # new
    os.utime(tmp_path / "1.tar", (1, 1))
    scanner = Here()
    second = build_index(source(tmp_path), folders(), scanner, [first])
    assert scanner.read == ["1.tar", "3.tar"]
    assert second.samples.tolist() == [1, 9, 3, 4]
    assert [second.offsets[number].tolist() for number in range(4)] == [[0]] * 4


def test_an_index_with_other_filters_says_nothing(tmp_path: Path) -> None:
    write_json_tar(tmp_path / "0.tar", [0.1, 0.5, 0.9])
    filtered = source(tmp_path).model_copy(update={"filters": [Filter(field="score", at_least=0.4)]})
    scanner = Here()
    everything = build_index(source(tmp_path), folders(), scanner)
    kept = build_index(filtered, folders(), scanner, [everything])
    again = build_index(filtered, folders(), scanner, [kept, everything])
    assert scanner.read == ["0.tar"] * 2
    assert (everything.samples.tolist(), kept.samples.tolist(), kept.stored.tolist()) == ([3], [2], [3])
    assert again.fingerprint() == kept.fingerprint() != everything.fingerprint()
    shard = again.shard(0)
    assert shard.kept is not None
    assert shard.kept.tolist() == [1, 2]


def test_filters_that_keep_nothing(tmp_path: Path) -> None:
    write_json_tar(tmp_path / "0.tar", [0.1, 0.5])
    filtered = source(tmp_path).model_copy(update={"filters": [Filter(field="score", at_least=2)]})
    with pytest.raises(
        DataError, match=r"no sample in 1 shards that its filters keep\. Check .* have the fields score:"
    ):
        build_index(filtered, folders(), Here())


def test_reading_all_gives_offsets_where_counts_alone_were_known(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", 300)
    (tmp_path / "0_stats.json").write_text('{"successes": 300}')
    counted = build_index(source(tmp_path), folders(), no_scan)
    assert len(counted.offsets[0]) == 0
    scanner = Here()
    read = build_index(source(tmp_path), folders(), scanner, [counted], read_all=True)
    assert scanner.read == ["0.tar"]
    assert read.offsets[0].tolist() == [0, 256 * 2]
    assert read.fingerprint() == counted.fingerprint()
    build_index(source(tmp_path), folders(), no_scan, [counted, read], read_all=True)


def test_an_index_is_kept_by_urls_and_filters(tmp_path: Path) -> None:
    one = source(tmp_path)
    other = one.model_copy(update={"filters": [Filter(field="score", at_least=0.4)]})
    root = f"file://{tmp_path}"
    assert kept_index(one, root) == kept_index(one, root) != kept_index(other, root)
    assert read_index(Storage(S3()), kept_index(one, root)) is None


def test_a_summary_and_its_file(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", 3)
    index = build_index(source(tmp_path), folders(), Here())
    out = f"file://{tmp_path}/made.index"
    summary = index_source(source(tmp_path), Storage(), Here(), out, read_all=False)
    assert (summary.shards, summary.samples, summary.shards_with_offsets, summary.out) == (1, 3, 1, out)
    kept = read_index(Storage(S3()), out)
    assert kept is not None
    assert kept.fingerprint() == index.fingerprint()
    assert summary.out_bytes == (tmp_path / "made.index").stat().st_size


def test_what_was_read_is_kept_though_another_shard_is_damaged(tmp_path: Path) -> None:
    """Mended, only the damaged shard is read again."""
    for number in range(4):
        write_tar(tmp_path / f"{number}.tar", number + 1)
    content = (tmp_path / "2.tar").read_bytes()
    (tmp_path / "2.tar").write_bytes(content[: 3 * 512])
    kept = f"file://{tmp_path}/kept.parquet"
    with pytest.raises(DataError, match=r"2\.tar: truncated after 1 samples"):
        build_index(source(tmp_path), folders(), Here(), keep_at=kept)

    (tmp_path / "2.tar").write_bytes(content)
    scanner = Here()
    earlier = known_index(Storage(), kept)
    assert earlier is not None
    assert build_index(source(tmp_path), folders(), scanner, [earlier]).samples.tolist() == [1, 2, 3, 4]
    assert scanner.read == ["2.tar"]


def test_what_was_read_is_kept_when_reading_is_interrupted(tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", number + 1)

    def interrupted(source: Source, shards: list[ObjectInfo]) -> Iterator[Found]:
        yield from Here()(source, shards[:2])
        raise KeyboardInterrupt

    kept = f"file://{tmp_path}/kept.parquet"
    with pytest.raises(KeyboardInterrupt):
        build_index(source(tmp_path), folders(), interrupted, keep_at=kept)
    index = known_index(Storage(), kept)
    assert index is not None
    assert index.samples.tolist() == [1, 2]


def test_counts_that_stand_beside_many_tars_are_kept_too(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    for folder, shards in ((tmp_path / "few", 3), (tmp_path, 256)):
        for number in range(shards):
            write_tar(folder / f"{number}.tar", 1)
            (folder / f"{number}_stats.json").write_text('{"successes": 1}')
        kept = f"file://{folder}/kept.parquet"
        build_index(source(folder), folders(), no_scan, keep_at=kept)
        assert (known_index(Storage(), kept) is not None) == (shards == 256)


def test_an_index_that_can_not_be_kept_is_only_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tar(tmp_path / "0.tar", 3)
    index = build_index(source(tmp_path), folders(), Here(), keep_at="file:///proc/nowhere/kept.parquet")
    assert index.samples.tolist() == [3]
    assert "what was found out about the shards could not be kept" in caplog.text


def test_the_first_of_several_indexes_goes_before_the_others(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", 3)
    (shard,) = find_shards([f"{tmp_path}/0.tar"], folders())
    first, second = (Index.of("s", "", [shard], [Scan.of(count)]) for count in (7, 9))
    assert build_index(source(tmp_path), folders(), no_scan, [first, second]).samples.tolist() == [7]
    write_tar(tmp_path / "1.tar", 5)  # now none lists exactly these shards
    assert build_index(source(tmp_path), folders(), Here(), [first, second]).samples.tolist() == [7, 5]


def test_a_count_beside_a_tar_that_was_mended_is_taken_though_the_tar_is_the_same(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", 3)
    stats = tmp_path / "0_stats.json"
    stats.write_text('{"successes": 2}')
    wrong = build_index(source(tmp_path), folders(), no_scan)
    stats.write_text('{"successes": 3}')
    os.utime(stats, (1, 1))
    assert build_index(source(tmp_path), folders(), no_scan, [wrong]).samples.tolist() == [3]
    stats.unlink()
    assert build_index(source(tmp_path), folders(), Here(), [wrong]).samples.tolist() == [3]


def test_filters_look_again_at_metadata_that_changed_beside_the_tar(tmp_path: Path) -> None:
    write_json_tar(tmp_path / "0.tar", [0.1, 0.5, 0.9])
    filtered = source(tmp_path).model_copy(update={"filters": [Filter(field="score", at_least=0.4)]})

    def scores(*values: float) -> None:
        table = arrow.table({"key": ["000", "001", "002"], "score": list(values)})
        arrow.parquet.write_table(table, tmp_path / "0.parquet")

    scores(1.0, 0.0, 0.0)
    before = build_index(filtered, folders(), Here())
    scores(0.0, 0.0, 1.0)
    os.utime(tmp_path / "0.parquet", (1, 1))
    after = build_index(filtered, folders(), Here(), [before])
    kept = [index.shard(0).kept for index in (before, after)]
    assert [places.tolist() for places in kept if places is not None] == [[0], [2]]


def test_a_log_is_told_of_progress_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", 1)
        (tmp_path / f"{number}_stats.json").write_text('{"successes": 1}')
    monkeypatch.setattr(scanning, "_TOLD_SECONDS", 0.0)
    build_index(source(tmp_path), folders(), no_scan)
    assert "counting the samples of 3 shards: 2 done\n" in capsys.readouterr().err
