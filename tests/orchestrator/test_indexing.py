"""The index: sidecar counts where they are, Ray tasks where not."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from jobspecs.cluster import Cluster
from jobspecs.data import Source
from jobspecs.errors import DataError
from jobspecs.storage import S3
from orchestrator.indexing import build_index, scan_with_ray
from workers.storage import Storage


def write_tar(path: Path, samples: int) -> None:
    with tarfile.open(path, "w") as tar:
        for number in range(samples):
            member = tarfile.TarInfo(f"{number:03d}.txt")
            member.size = 2
            tar.addfile(member, io.BytesIO(b"hi"))


def no_scan(uris: list[str]) -> list[int]:
    raise AssertionError(f"scanned {uris}")


def source(folder: Path) -> Source:
    return Source(name="s", urls=[f"{folder}/*.tar"])


def test_sidecars_are_believed_and_nothing_is_scanned(tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", 2)
        (tmp_path / f"{number}_stats.json").write_text(f'{{"successes": {number + 1}}}')
    index = build_index(source(tmp_path), Storage(S3()), no_scan)
    assert index.samples == (1, 2, 3)
    assert [uri.rpartition("/")[2] for uri in index.uris] == ["0.tar", "1.tar", "2.tar"]
    assert all(size == (tmp_path / "0.tar").stat().st_size for size in index.sizes)


def test_a_source_without_a_sample(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", 1)
    (tmp_path / "0_stats.json").write_text('{"successes": 0}')
    with pytest.raises(DataError, match="source 's' has no sample in 1 shards"):
        build_index(source(tmp_path), Storage(S3()), no_scan)


@pytest.mark.ray
def test_shards_without_a_sidecar_are_scanned_by_ray_tasks(ray_cluster: None, tmp_path: Path) -> None:
    for number, samples in enumerate((4, 2, 7)):
        write_tar(tmp_path / f"{number}.tar", samples)
    (tmp_path / "1_stats.json").write_text('{"successes": 2}')
    storage = Storage(S3())
    index = build_index(source(tmp_path), storage, scan_with_ray(storage, Cluster()))
    assert index.samples == (4, 2, 7)


@pytest.mark.ray
def test_damaged_shards_are_named_all_at_once(ray_cluster: None, tmp_path: Path) -> None:
    write_tar(tmp_path / "good.tar", 2)
    write_tar(tmp_path / "cut.tar", 2)
    content = (tmp_path / "cut.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: 512 + 512 + 100])
    (tmp_path / "text.tar").write_bytes(b"no tar at all" * 100)
    storage = Storage(S3())
    write_tar(tmp_path / "between.tar", 4)
    (tmp_path / "between.tar").write_bytes((tmp_path / "between.tar").read_bytes()[: 3 * 1024])
    with pytest.raises(DataError, match=r"cut\.tar: truncated after 1 samples") as error:
        build_index(source(tmp_path), storage, scan_with_ray(storage, Cluster()))
    assert "text.tar: unreadable" in str(error.value)
    assert "between.tar: truncated after 3 samples" in str(error.value)
