"""URI arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobspecs.errors import (
    UsageError,
)
from workers.storage import absolute, basename, join


def test_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert absolute("data/x") == f"file://{tmp_path}/data/x"
    assert absolute("../x/") == f"file://{tmp_path.parent}/x"
    assert absolute("~/x") == "file:///home/someone/x"
    assert absolute("/a/100% #1?.tar") == "file:///a/100% #1?.tar"
    assert absolute("file:///a/../b//c/") == "file:///b/c"
    assert absolute("s3://b/k//x/") == "s3://b/k//x"
    assert absolute("s3://b/") == "s3://b"


@pytest.mark.parametrize(
    "uri", ["gs://b/k", "https://host/k", "s3:/b/k", "s3://", "s3:///k", "file://host/k", "hdfs://h:1/k"]
)
def test_absolute_names_the_schemes(uri: str) -> None:
    with pytest.raises(UsageError) as caught:
        absolute(uri)
    for part in (repr(uri), repr(uri.partition(":")[0]), "file://", "s3://"):
        assert part in str(caught.value)


def test_join_and_basename() -> None:
    assert join("s3://b", "k") == "s3://b/k"
    assert join("s3://b/run/", "/checkpoints/", "step-8") == "s3://b/run/checkpoints/step-8"
    assert join("file:///", "a") == "file:///a"
    assert basename("s3://b/run/spec.yaml") == "spec.yaml"
    assert basename("file:///a/b/") == "b"
